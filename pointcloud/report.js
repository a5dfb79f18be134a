"use strict";
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const $ = (id) => document.getElementById(id);
  const canvas = $("view");
  const FOV = 0.6;
  const MAX_SCREEN = 2;
  const SLICE = 0.02;

  const POINTS = `#version 300 es
    layout(location = 0) in vec3 position; layout(location = 1) in float residual;
    uniform mat4 model, viewProjection; uniform float spread, residualScale; uniform vec3 push; uniform int colorMode; uniform bool isSource;
    uniform vec3 plain, neutral, up, ramp[5]; uniform vec2 heights; uniform vec4 plane; uniform float slab;
    out vec3 color;
    vec3 along(float t) { t = clamp(t, 0., 1.) * 4.; int i = min(int(t), 3); return mix(ramp[i], ramp[i + 1], t - float(i)); }
    void main() {
      vec4 world = model * vec4(position, 1.);
      gl_Position = viewProjection * world;
      gl_PointSize = clamp(spread / gl_Position.w, 1.5, 48.);
      color = colorMode == 2 ? along((dot(world.xyz, up) - heights.x) / (heights.y - heights.x))
        : colorMode == 0 ? plain : isSource ? along(residual * residualScale) : neutral;
      if (colorMode == 1 && !isSource) { vec4 behind = viewProjection * (world + vec4(push, 0.)); gl_Position.z = behind.z / behind.w * gl_Position.w; }
      float side = dot(plane.xyz, world.xyz) - plane.w;
      if (dot(plane.xyz, plane.xyz) > 0. && (side > 0. || side < -slab)) gl_Position = vec4(2., 2., 2., 1.);
    }`;
  const POINTS_FRAGMENT = `#version 300 es
    precision highp float; in vec3 color; out vec4 result;
    void main() { vec2 d = gl_PointCoord - .5; if (dot(d, d) > .25) discard; result = vec4(color, 1.); }`;
  const SCREEN = `#version 300 es
    void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4. - 1., 0., 1.); }`;
  // Eye-dome lighting: a pixel darkens where its neighbours stand nearer, in units of slope.
  const SHADE = `#version 300 es
    precision highp float; uniform sampler2D colors, depths; uniform vec2 range; uniform float perPixel, strength; uniform bool parallel; uniform int reach;
    out vec4 result;
    float depth(ivec2 p) {
      float z = texelFetch(depths, clamp(p, ivec2(0), textureSize(depths, 0) - 1), 0).r;
      if (z >= 1.) return 1e9;
      return parallel ? mix(range.x, range.y, z) : range.x * range.y / (range.y - z * (range.y - range.x));
    }
    void main() {
      ivec2 p = ivec2(gl_FragCoord.xy); vec3 color = texelFetch(colors, p, 0).rgb; float own = depth(p), sum = 0.;
      if (own < 1e8) for (int k = 1; k <= 3; k += 2) for (int y = -1; y <= 1; y++) for (int x = -1; x <= 1; x++) {
        int r = k * reach; float run = float(r) * length(vec2(x, y)) * perPixel * (parallel ? 1. : own);
        if (run > 0.) sum += clamp((own - depth(p + r * ivec2(x, y))) / run, 0., 6.);
      }
      result = vec4(color * exp(-strength * sum / 8.), 1.);
    }`;
  const LINES = `#version 300 es
    layout(location = 0) in vec3 position; layout(location = 1) in vec3 tint; uniform mat4 viewProjection; out vec3 color;
    void main() { gl_Position = viewProjection * vec4(position, 1.); color = tint; }`;
  const LINES_FRAGMENT = `#version 300 es
    precision highp float; in vec3 color; out vec4 result; void main() { result = vec4(color, .8); }`;

  const origin = data.fit.after.center;
  const up = data.up;
  const east = unit(cross(up, Math.abs(up[2]) > 0.9 ? [0, 1, 0] : [0, 0, 1]));
  const north = cross(up, east);
  const home = { yaw: Math.atan2(dot(data.view, north), dot(data.view, east)), pitch: Math.asin(clamp(dot(data.view, up), -1, 1)) };
  const state = { ...home, zoom: 1, pan: [0, 0, 0], blend: 1, pose: 0, color: 0, section: -1 };
  const lines = {
    source: shorts(data.correspondences.source.positions), target: shorts(data.correspondences.target.positions),
    confidence: bytes(data.correspondences.confidence), inlier: bytes(data.correspondences.inlier),
  };
  let gl, gpu, queued = false, playing = 0;

  function program(vertex, fragment) {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    const at = {};
    return { made, at: (name) => (name in at ? at[name] : (at[name] = gl.getUniformLocation(made, name))) };
  }

  function upload(cloud) {
    const vao = gl.createVertexArray();
    gl.bindVertexArray(vao);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, shorts(cloud.positions), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.SHORT, false, 6, 0);
    return { vao, cloud, residual: gl.createBuffer() };
  }

  function start() {
    gl = canvas.getContext("webgl2", { alpha: false, antialias: false });
    if (!gl) return false;
    gpu = {
      points: program(POINTS, POINTS_FRAGMENT), shade: program(SCREEN, SHADE), lines: program(LINES, LINES_FRAGMENT),
      source: upload(data.source), target: upload(data.target), lineBuffer: gl.createBuffer(), lineArray: gl.createVertexArray(),
      screen: gl.createVertexArray(), frame: gl.createFramebuffer(), size: [0, 0],
    };
    gl.bindVertexArray(gpu.lineArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, gpu.lineBuffer);
    for (const k of [0, 1]) {
      gl.enableVertexAttribArray(k);
      gl.vertexAttribPointer(k, 3, gl.FLOAT, false, 24, 12 * k);
    }
    choosePose(state.pose);
    return true;
  }

  function choosePose(index) {
    state.pose = index;
    const pose = data.poses[index];
    if (!pose) return;
    gl.bindVertexArray(gpu.source.vao);
    gl.bindBuffer(gl.ARRAY_BUFFER, gpu.source.residual);
    gl.bufferData(gl.ARRAY_BUFFER, bytes(pose.residual), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 1, gl.UNSIGNED_BYTE, true, 1, 0);
    $("matrix").textContent = pose.text;
    $("matrix-label").textContent = `Shown: ${pose.label}.`;
    draw();
  }

  function frameTextures(width, height) {
    if (gpu.size[0] === width && gpu.size[1] === height) return;
    for (const texture of [gpu.colors, gpu.depths]) if (texture) gl.deleteTexture(texture);
    const make = (format) => {
      const texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
      return texture;
    };
    gpu.colors = make(gl.RGBA8);
    gpu.depths = make(gl.DEPTH_COMPONENT24);
    gl.bindFramebuffer(gl.FRAMEBUFFER, gpu.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gpu.colors, 0);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, gpu.depths, 0);
    gpu.size = [width, height];
  }

  function camera(width, height) {
    const { before, after } = data.fit;
    const reach = before.radius + state.blend * (after.radius - before.radius);
    const base = mix(add(before.center, origin, -1), [0, 0, 0], state.blend);
    const back = unit(add(add(east.map((v) => v * Math.cos(state.yaw) * Math.cos(state.pitch)), north, Math.sin(state.yaw) * Math.cos(state.pitch)), up, Math.sin(state.pitch)));
    const right = unit(cross(up, back));
    const top = cross(back, right);
    const focus = add(base, state.pan);
    const half = mix(before.half, after.half, state.blend);
    const fitting = 1.22 * Math.max(half[1], half[0] * height / width) / Math.tan(FOV / 2) + half[2];
    const distance = fitting * state.zoom;
    const near = Math.max(distance - 6 * reach, distance * 0.02);
    const far = distance + 6 * reach;
    const eye = add(focus, back, distance);
    const view = [...right, -dot(right, eye), ...top, -dot(top, eye), ...back, -dot(back, eye), 0, 0, 0, 1];
    const f = 1 / Math.tan(FOV / 2);
    const parallel = $("ortho").checked;
    const k = f / distance;
    const projection = parallel
      ? [k * height / width, 0, 0, 0, 0, k, 0, 0, 0, 0, -2 / (far - near), -(far + near) / (far - near), 0, 0, 0, 1]
      : [f * height / width, 0, 0, 0, 0, f, 0, 0, 0, 0, -(far + near) / (far - near), -2 * far * near / (far - near), 0, 0, -1, 0];
    return { matrix: multiply(projection, view), right, top, back, distance, near, far, parallel, f };
  }

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);

  function render(width, height) {
    frameTextures(width, height);
    const eye = camera(width, height);
    const ground = rgb(css("--stage"));
    const { points, shade } = gpu;
    const radius = data.fit.after.radius;
    gl.bindFramebuffer(gl.FRAMEBUFFER, gpu.frame);
    gl.viewport(0, 0, width, height);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    gl.clearColor(...ground, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(points.made);
    const spread = ($("size").value / 10) * data.spacing * height * eye.f / 2 / (eye.parallel ? eye.distance : 1);
    gl.uniformMatrix4fv(points.at("viewProjection"), false, forGpu(eye.matrix));
    gl.uniform1f(points.at("spread"), spread);
    // Residuals lie in front of the target they were measured to: both surfaces coincide there.
    gl.uniform3fv(points.at("push"), eye.back.map((v) => -v * data.residualLimit));
    gl.uniform1f(points.at("residualScale"), 255 / 254);
    gl.uniform1i(points.at("colorMode"), state.color);
    gl.uniform3fv(points.at("ramp[0]"), data.colors.ramp.flat().map((v) => v / 255));
    gl.uniform3fv(points.at("neutral"), data.colors.neutral.map((v) => v / 255));
    gl.uniform3fv(points.at("up"), up);
    gl.uniform2fv(points.at("heights"), data.heights.map((h) => h - dot(up, origin)));
    const flip = $("flip").checked ? -1 : 1;
    const normal = [0, 1, 2].map((a) => (a === state.section ? flip : 0));
    const at = flip * radius * $("section-at").value / 1000;
    const thin = $("slice").checked;
    gl.uniform4f(points.at("plane"), ...normal, at + (thin ? radius * SLICE / 2 : 0));
    gl.uniform1f(points.at("slab"), thin ? radius * SLICE : 1e30);
    const pose = data.poses[state.pose];
    const motion = pose ? between(data.start, pose.matrix, data.center, state.blend) : data.start;
    const shift = [1, 0, 0, -origin[0], 0, 1, 0, -origin[1], 0, 0, 1, -origin[2], 0, 0, 0, 1];
    for (const [side, matrix, shown, color] of [
      [gpu.target, shift, "show-target", "--target"], [gpu.source, multiply(shift, motion), "show-source", "--source"]]) {
      if (!$(shown).checked || !side.cloud.count) continue;
      gl.bindVertexArray(side.vao);
      gl.uniformMatrix4fv(points.at("model"), false, forGpu(multiply(matrix, dequantise(side.cloud))));
      gl.uniform3fv(points.at("plain"), rgb(css(color)));
      gl.uniform1i(points.at("isSource"), side === gpu.source ? 1 : 0);
      gl.drawArrays(gl.POINTS, 0, side.cloud.count);
    }

    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(shade.made);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, gpu.colors);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, gpu.depths);
    gl.uniform1i(shade.at("colors"), 0);
    gl.uniform1i(shade.at("depths"), 1);
    gl.uniform2f(shade.at("range"), eye.near, eye.far);
    gl.uniform1f(shade.at("perPixel"), 2 / eye.f / height * (eye.parallel ? eye.distance : 1));
    gl.uniform1f(shade.at("strength"), $("shade").checked ? 0.36 : 0);
    gl.uniform1i(shade.at("parallel"), eye.parallel ? 1 : 0);
    gl.uniform1i(shade.at("reach"), Math.round(clamp(spread / (eye.parallel ? 1 : eye.distance) / 2 + 1, 2, 8)));
    gl.bindVertexArray(gpu.screen);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    renderLines(eye, motion, pose);
    return eye;
  }

  function renderLines(eye, motion, pose) {
    const wanted = [$("outliers").checked, $("inliers").checked];
    const tints = [rgb(css("--outlier")), rgb(css("--inlier"))];
    const least = $("confidence").value / 100;
    const { source, target } = data.correspondences;
    const vertices = [];
    let shown = 0;
    for (let i = 0; i < source.count; i++) {
      const from = point(source, lines.source, i);
      const to = point(target, lines.target, i);
      // The flags belong to the reported pose; under another one the distance decides, at half the colour limit.
      const fits = state.pose === 0 || !pose ? lines.inlier[i] : +(Math.hypot(...add(move(pose.matrix, from), to, -1)) < data.residualLimit / 2);
      if (!wanted[fits] || lines.confidence[i] / 255 < least) continue;
      vertices.push(...add(move(motion, from), origin, -1), ...tints[fits], ...add(to, origin, -1), ...tints[fits]);
      shown++;
    }
    $("confidence-out").textContent = wanted[0] || wanted[1] ? `${least.toFixed(2)} (${shown} shown)` : least.toFixed(2);
    if (!shown) return;
    gl.useProgram(gpu.lines.made);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    gl.uniformMatrix4fv(gpu.lines.at("viewProjection"), false, forGpu(eye.matrix));
    gl.bindVertexArray(gpu.lineArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, gpu.lineBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(vertices), gl.DYNAMIC_DRAW);
    gl.drawArrays(gl.LINES, 0, 2 * shown);
  }

  const format = (value) => `${Math.abs(value) >= 1000 ? Math.round(value) : Number(value.toPrecision(3))} ${data.unit}`.trim();

  function legendParts() {
    const parts = [];
    if (state.color === 0) parts.push(["dot", "source"], ["dot target", "target"]);
    if (state.color === 1) parts.push(["", "0"], ["ramp", `${format(data.residualLimit)} or more`], ["dot neutral", "target"]);
    if (state.color === 2) parts.push(["", "low"], ["ramp", `high (${format(data.heights[1] - data.heights[0])})`]);
    if ($("inliers").checked) parts.push(["line", "inlier"]);
    if ($("outliers").checked) parts.push(["line out", "outlier"]);
    return parts;
  }

  function legend() {
    $("legend").replaceChildren(...legendParts().map(([kind, text]) => {
      const part = document.createElement("span");
      const mark = document.createElement(kind.startsWith("line") ? "i" : "span");
      mark.className = kind.replace("line", "").trim();
      part.append(...(kind ? [mark] : []), text);
      return part;
    }));
  }

  function scaleBar(eye, height) {
    const perPixel = 2 * eye.distance / eye.f / height;
    const wanted = 120 * perPixel;
    const power = 10 ** Math.floor(Math.log10(wanted));
    const length = [5, 2, 1].map((k) => k * power).find((value) => value <= wanted) || power;
    $("bar").style.width = `${length / perPixel}px`;
    $("bar").firstElementChild.textContent = format(length);
  }

  function draw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      if (!gl || gl.isContextLost()) return;
      const ratio = clamp(window.devicePixelRatio || 1, 1.5, MAX_SCREEN);
      const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(2, Math.round(side * ratio)));
      if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
      const eye = render(width, height);
      scaleBar(eye, canvas.clientHeight);
      legend();
      $("size-out").textContent = ($("size").value / 10).toFixed(1);
      document.documentElement.dataset.viewer = "ready";
    });
  }

  function turn(dx, dy) {
    state.yaw -= dx;
    state.pitch = clamp(state.pitch + dy, -1.553, 1.553);
    draw();
  }

  function pan(dx, dy) {
    const eye = camera(canvas.clientWidth, canvas.clientHeight);
    const step = 2 * eye.distance / eye.f / canvas.clientHeight;
    state.pan = add(add(state.pan, eye.right, -dx * step), eye.top, dy * step);
    draw();
  }

  function zoom(factor) {
    state.zoom = clamp(state.zoom * factor, 0.02, 20);
    draw();
  }

  function reset(view = home) {
    Object.assign(state, view, { zoom: 1, pan: [0, 0, 0] });
    draw();
  }

  function blendTo(value) {
    state.blend = clamp(value, 0, 1);
    $("blend").value = Math.round(state.blend * 1000);
    draw();
  }

  function stop() {
    cancelAnimationFrame(playing);
    playing = 0;
    $("play").textContent = "Play";
  }

  function play() {
    if (playing) return stop();
    const from = state.blend >= 1 ? 0 : state.blend;
    const began = performance.now();
    const step = (now) => {
      const k = Math.min(1, (now - began) / 2200);
      blendTo(from + (1 - from) * k * k * (3 - 2 * k));
      if (k < 1) playing = requestAnimationFrame(step);
      else stop();
    };
    $("play").textContent = "Pause";
    playing = requestAnimationFrame(step);
  }

  function press(group, value) {
    for (const button of $(group).children) button.setAttribute("aria-pressed", String(+button.value === value));
    state[group] = value;
    $("section-box").hidden = state.section < 0;
    draw();
  }

  async function copy() {
    const pose = data.poses[state.pose];
    try {
      await navigator.clipboard.writeText(pose.text);
    } catch {
      // Pages opened from disk may not reach the clipboard: select the text and use the older command.
      getSelection().selectAllChildren($("matrix"));
      if (!document.execCommand("copy")) return notice("Copying is not allowed here: the matrix is selected, press Ctrl+C.");
    }
    notice(`Copied: ${pose.label}.`);
  }

  function save() {
    const width = 2400;
    const height = Math.round(width * canvas.clientHeight / canvas.clientWidth);
    [canvas.width, canvas.height] = [width, height];
    render(width, height);
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [width, height + 110];
    const pen = sheet.getContext("2d");
    pen.fillStyle = css("--stage");
    pen.fillRect(0, 0, sheet.width, sheet.height);
    pen.drawImage(canvas, 0, 0);
    pen.fillStyle = css("--ink");
    pen.font = "34px system-ui, sans-serif";
    const { source, target } = data.names;
    pen.fillText(`${data.verdict}   ${source} to ${target}`, 40, height + 44, width - 80);
    pen.fillStyle = css("--muted");
    pen.font = "28px system-ui, sans-serif";
    const pose = data.poses[state.pose] ? data.poses[state.pose].label : "no pose";
    pen.fillText(`${pose}, ${Math.round(state.blend * 100)} % of the motion, colour by ${["cloud (source orange, target blue)", "residual", "height"][state.color]}`, 40, height + 88, width - 80);
    draw();
    sheet.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = "registration.png";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      notice("Saved registration.png.");
    });
  }

  function notice(text) {
    $("notice").textContent = text;
  }

  function pointerControls() {
    const held = new Map();
    const spread = () => { const [a, b] = [...held.values()]; return Math.hypot(a.x - b.x, a.y - b.y) || 1; };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, { x: event.clientX, y: event.clientY });
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = held.get(event.pointerId);
      if (!last) return;
      const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
      const gap = held.size === 2 ? spread() : 0;
      held.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (held.size === 2) {
        zoom(gap / spread());
        pan(dx / 2, dy / 2);
      } else if (event.buttons & 6 || event.shiftKey) pan(dx, dy);
      else turn(dx * 0.007, dy * 0.007);
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => held.delete(event.pointerId));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => reset());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(clamp(event.deltaY * (event.deltaMode ? 16 : 1), -240, 240) * 0.0015));
    }, { passive: false });
  }

  function keyControls() {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const toggleLines = () => { $("inliers").checked = !$("inliers").checked; draw(); };
    const keys = {
      "+": () => zoom(0.88), "=": () => zoom(0.88), "-": () => zoom(1.14), " ": () => data.poses.length && play(), b: () => blendTo(0), a: () => data.poses.length && blendTo(1),
      r: () => reset(), l: toggleLines, 1: () => press("color", 0), 2: () => data.poses.length && press("color", 1), 3: () => press("color", 2),
    };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const arrow = arrows[event.key];
      const action = keys[event.key];
      if (arrow && event.shiftKey) pan(-24 * arrow[0], -24 * arrow[1]);
      else if (arrow) turn(-0.09 * arrow[0], -0.09 * arrow[1]);
      else if (action) action();
      else return;
      event.preventDefault();
    });
  }

  function formControls() {
    const hasPose = data.poses.length > 0;
    $("pose").replaceChildren(...data.poses.map((pose, i) => new Option(pose.label, i)));
    $("pose-box").hidden = data.poses.length < 2;
    $("copy").disabled = !hasPose;
    $("morph").hidden = !hasPose;
    $("color").children[1].disabled = !hasPose;
    $("lines-box").hidden = data.correspondences.source.count === 0;
    $("after-label").textContent = data.status === "not_registered" ? "Best guess, not accepted" : "After";
    $("shown").textContent = `Drawn: ${data.source.count.toLocaleString("en")} of ${data.source.total.toLocaleString("en")} source and ${data.target.count.toLocaleString("en")} of ${data.target.total.toLocaleString("en")} target points.`
      + (data.startShifted ? " The frames lie far apart: before, the source is drawn beside the target." : "");
    $("pose").addEventListener("change", () => choosePose(+$("pose").value));
    $("blend").addEventListener("input", () => { stop(); blendTo($("blend").value / 1000); });
    for (const group of ["color", "section"]) $(group).addEventListener("click", (event) => event.target.value !== undefined && press(group, +event.target.value));
    $("controls").addEventListener("input", draw);
    $("controls").addEventListener("submit", (event) => event.preventDefault());
    const actions = { play, copy, save, reset: () => reset(), top: () => reset({ yaw: home.yaw, pitch: 1.553 }), side: () => reset({ yaw: home.yaw, pitch: 0 }) };
    for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);
  }

  if (!start()) {
    document.documentElement.dataset.viewer = "unavailable";
    $("message").textContent = "WebGL 2 is not available in this browser, so the clouds cannot be drawn. All results are in the tables below.";
    return;
  }
  if (!data.poses.length) state.blend = 0;
  for (const id of ["legend", "bar", "controls"]) $(id).hidden = false;
  $("message").hidden = true;
  formControls();
  pointerControls();
  keyControls();
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", start);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas);
  draw();
})();
