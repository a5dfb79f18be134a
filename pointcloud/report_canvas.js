"use strict";
// Draws both clouds and the correspondences with WebGL 2, as a `look` says; the page around it is not touched.
function makeCanvas(canvas, data) {
  const FOV = 0.6;
  const SLICE = 0.02;
  const COLORS = ["cloud", "residual", "overlap", "confidence", "original", "height"];

  const ALONG = `vec3 along(float t) { t = clamp(t, 0., 1.) * 4.; int i = min(int(t), 3); return mix(ramp[i], ramp[i + 1], t - float(i)); }`;
  const POINTS = `#version 300 es
    layout(location = 0) in vec3 position; layout(location = 1) in float residual; layout(location = 2) in float confidence; layout(location = 3) in vec3 original;
    uniform mat4 model, viewProjection; uniform float spread, largest, slab; uniform vec3 push; uniform int colorMode; uniform bool isSource;
    uniform vec3 plain, pale, shared, neutral, up, ramp[5]; uniform vec2 heights; uniform vec4 plane;
    out vec3 color; out vec2 clip;
    ${ALONG}
    void main() {
      vec4 world = model * vec4(position, 1.);
      gl_Position = viewProjection * world;
      clip = gl_Position.zw;
      gl_PointSize = clamp(spread / gl_Position.w, 1.5, largest);
      if (colorMode == 0) color = plain;
      if (colorMode == 1) color = isSource ? along(residual * 255. / 254.) : neutral;
      if (colorMode == 2) color = residual < .5 ? shared : pale;
      if (colorMode == 3) color = confidence > 0. ? along((confidence * 255. - 1.) / 254.) : neutral;
      if (colorMode == 4) color = original;
      if (colorMode == 5) color = along((dot(world.xyz, up) - heights.x) / (heights.y - heights.x));
      // Residuals lie in front of the target they were measured to: both surfaces coincide there.
      if (colorMode == 1 && !isSource) clip = (viewProjection * (world + vec4(push, 0.))).zw;
      float side = dot(plane.xyz, world.xyz) - plane.w;
      if (dot(plane.xyz, plane.xyz) > 0. && (side > 0. || side < -slab)) gl_Position = vec4(2., 2., 2., 1.);
    }`;
  // Each point is a shallow bowl, not a disc: neighbours meet half-way between them instead of covering each other.
  const POINTS_FRAGMENT = `#version 300 es
    precision highp float; in vec3 color; in vec2 clip; uniform vec2 recede; uniform float bulge; out vec4 result;
    void main() {
      vec2 d = 2. * gl_PointCoord - 1.; float r = dot(d, d);
      if (r > 1.) discard;
      vec2 deeper = clip + recede * (bulge * r);
      gl_FragDepth = .5 + .5 * deeper.x / deeper.y;
      result = vec4(color, 1.);
    }`;
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
  // One quad per correspondence, as wide on paper as on the screen; outliers are dashed as well as coloured.
  const LINES = `#version 300 es
    layout(location = 0) in vec3 from; layout(location = 1) in vec3 to; layout(location = 2) in float confidence; layout(location = 3) in float inlier;
    uniform mat4 fromModel, toModel, viewProjection; uniform vec2 screen, wanted; uniform float width, least, nearest; uniform vec3 tints[2], ramp[5]; uniform bool byConfidence;
    out vec3 color; out vec2 place; flat out float dashed;
    ${ALONG}
    void main() {
      bool fits = inlier > .5;
      vec4 a = viewProjection * (fromModel * vec4(from, 1.)), b = viewProjection * (toModel * vec4(to, 1.));
      gl_Position = vec4(2., 2., 2., 1.);
      if ((fits ? wanted.y : wanted.x) < .5 || confidence < least || max(a.w, b.w) < nearest) return;
      if (a.w < nearest) a = mix(a, b, (nearest - a.w) / (b.w - a.w)); else if (b.w < nearest) b = mix(b, a, (nearest - b.w) / (a.w - b.w));
      vec2 p = a.xy / a.w * screen / 2., q = b.xy / b.w * screen / 2.;
      float extent = length(q - p);
      vec2 direction = extent > 0. ? (q - p) / extent : vec2(1., 0.);
      bool last = gl_VertexID > 1;
      place = vec2(last ? extent : 0., (gl_VertexID & 1) == 1 ? .5 * width + 1. : -.5 * width - 1.);
      gl_Position = vec4(((last ? q : p) + place.y * vec2(-direction.y, direction.x)) * 2. / screen, 0., 1.);
      color = byConfidence ? along(confidence) : tints[fits ? 1 : 0];
      dashed = fits ? 0. : 1.;
    }`;
  const LINES_FRAGMENT = `#version 300 es
    precision highp float; in vec3 color; in vec2 place; flat in float dashed; uniform float width; out vec4 result;
    void main() {
      if (dashed > .5 && fract(place.x / (8. * width)) > .6) discard;
      result = vec4(color, .85 * clamp(.5 * width + .5 - abs(place.y), 0., 1.));
    }`;

  const origin = data.fit.after.center;
  const up = data.up;
  const east = unit(cross(up, Math.abs(up[2]) > 0.9 ? [0, 1, 0] : [0, 0, 1]));
  const north = cross(up, east);
  const shift = [1, 0, 0, -origin[0], 0, 1, 0, -origin[1], 0, 0, 1, -origin[2], 0, 0, 0, 1];
  const matches = data.correspondences;
  const confidence = new Uint16Array(bytes(matches.confidence).buffer);
  // Half a step of the stored confidences, so that one that equals the threshold is shown.
  const least = (look) => look.threshold - 0.5 / 65535;
  let gl, gpu, inlier;

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
    const known = {};
    return { use: () => gl.useProgram(made), at: (name) => (name in known ? known[name] : (known[name] = gl.getUniformLocation(made, name))) };
  }

  /** Feeds `values` to an attribute of the bound vertex array; unsigned ones count as shares of their largest value. */
  function feed(location, values, size, divisor = 0) {
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(location);
    const type = { Uint8Array: gl.UNSIGNED_BYTE, Uint16Array: gl.UNSIGNED_SHORT, Int16Array: gl.SHORT }[values.constructor.name];
    gl.vertexAttribPointer(location, size, type, type !== gl.SHORT, 0, 0);
    gl.vertexAttribDivisor(location, divisor);
    return buffer;
  }

  function refill(buffer, values) {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
  }

  function upload(cloud) {
    const vao = gl.createVertexArray();
    gl.bindVertexArray(vao);
    feed(0, shorts(cloud.positions), 3);
    const residual = feed(1, new Uint8Array(cloud.count), 1);
    feed(2, bytes(cloud.confidence), 1);
    if (cloud.colors) feed(3, bytes(cloud.colors), 3);
    return { vao, cloud, residual };
  }

  function uploadLines() {
    const vao = gl.createVertexArray();
    gl.bindVertexArray(vao);
    feed(0, shorts(matches.source.positions), 3, 1);
    feed(1, shorts(matches.target.positions), 3, 1);
    feed(2, confidence, 1, 1);
    return { vao, inlier: feed(3, bytes(matches.inlier), 1, 1) };
  }

  /** False where the browser offers no WebGL 2; to be called again after the context was lost. */
  function start() {
    // Kept after drawing, so that printing the page shows the picture.
    gl = canvas.getContext("webgl2", { alpha: false, antialias: false, preserveDrawingBuffer: true });
    if (!gl) return false;
    gpu = {
      points: program(POINTS, POINTS_FRAGMENT), shade: program(SCREEN, SHADE), lines: program(LINES, LINES_FRAGMENT),
      source: upload(data.source), target: upload(data.target), matches: uploadLines(),
      screen: gl.createVertexArray(), frame: gl.createFramebuffer(), size: [0, 0],
    };
    return true;
  }

  /** Residuals and inliers of another pose. */
  function choosePose(index) {
    const pose = data.poses[index];
    inlier = bytes(matches.inlier);
    if (!pose) return;
    refill(gpu.source.residual, bytes(pose.residual.source));
    refill(gpu.target.residual, bytes(pose.residual.target));
    if (index > 0) {
      // The flags belong to the reported pose; under another one the distance decides, at half the colour limit.
      const [from, to] = [shorts(matches.source.positions), shorts(matches.target.positions)];
      inlier.forEach((_, i) => {
        const gap = add(move(pose.matrix, point(matches.source, from, i)), point(matches.target, to, i), -1);
        inlier[i] = Math.hypot(...gap) < data.residualLimit / 2 ? 255 : 0;
      });
    }
    refill(gpu.matches.inlier, inlier);
  }

  /** Number of correspondences that `look` shows. */
  function countLines(look) {
    const wanted = [look.lines === "outliers" || look.lines === "all", look.lines === "inliers" || look.lines === "all"];
    return inlier.reduce((sum, flag, i) => sum + (wanted[flag ? 1 : 0] && confidence[i] / 65535 >= least(look) ? 1 : 0), 0);
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

  /** Yaw and pitch of an eye that stands in `direction`. */
  const anglesOf = (direction) => [Math.atan2(dot(direction, north), dot(direction, east)), Math.asin(clamp(dot(direction, up), -1, 1))];

  function camera(look, width, height) {
    const [yaw, pitch, zoom, ...pan] = look.eye;
    const { before, after } = data.fit;
    const reach = mix([before.radius], [after.radius], look.blend)[0];
    const base = mix(add(before.center, origin, -1), [0, 0, 0], look.blend);
    const level = add(east.map((v) => v * Math.cos(yaw)), north, Math.sin(yaw));
    const back = unit(add(level.map((v) => v * Math.cos(pitch)), up, Math.sin(pitch)));
    const right = unit(cross(up, back));
    const top = cross(back, right);
    const half = mix(before.half, after.half, look.blend);
    const distance = zoom * (1.15 * Math.max(half[1], half[0] * height / width) / Math.tan(FOV / 2) + half[2]);
    const near = Math.max(distance - 6 * reach, distance * 0.02);
    const far = distance + 6 * reach;
    const eye = add(add(base, pan), back, distance);
    const view = [...right, -dot(right, eye), ...top, -dot(top, eye), ...back, -dot(back, eye), 0, 0, 0, 1];
    const f = 1 / Math.tan(FOV / 2);
    const k = f / distance;
    const projection = look.parallel
      ? [k * height / width, 0, 0, 0, 0, k, 0, 0, 0, 0, -2 / (far - near), -(far + near) / (far - near), 0, 0, 0, 1]
      : [f * height / width, 0, 0, 0, 0, f, 0, 0, 0, 0, -(far + near) / (far - near), -2 * far * near / (far - near), 0, 0, -1, 0];
    // World length of a pixel in the middle of the picture.
    return { matrix: multiply(projection, view), depthSlope: projection[10], right, top, back, distance, near, far, f, pixel: 2 * distance / f / height };
  }

  /**
   * Draws into the canvas, which has `width` x `height` pixels, `ratio` of them to a pixel of the page.
   * `palette` holds colours as three shares of one: ground, source, target, shared, neutral, inlier, outlier.
   */
  function render(look, width, height, ratio, palette) {
    frameTextures(width, height);
    const eye = camera(look, width, height);
    const pose = data.poses[look.pose];
    const motion = multiply(shift, pose ? between(data.start, pose.matrix, data.center, look.blend) : data.start);
    const ramp = data.ramp.flat().map((v) => v / 255);
    gl.bindFramebuffer(gl.FRAMEBUFFER, gpu.frame);
    gl.viewport(0, 0, width, height);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    gl.clearColor(...palette.ground, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const spread = (cloud) => look.size * cloud.spacing * height * eye.f / 2 / (look.parallel ? eye.distance : 1);
    renderPoints(look, eye, motion, ramp, palette, spread, ratio);

    const { shade } = gpu;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.DEPTH_TEST);
    shade.use();
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, gpu.colors);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, gpu.depths);
    gl.uniform1i(shade.at("colors"), 0);
    gl.uniform1i(shade.at("depths"), 1);
    gl.uniform2f(shade.at("range"), eye.near, eye.far);
    gl.uniform1f(shade.at("perPixel"), 2 / eye.f / height * (look.parallel ? eye.distance : 1));
    gl.uniform1f(shade.at("strength"), look.shading ? 0.36 : 0);
    gl.uniform1i(shade.at("parallel"), look.parallel ? 1 : 0);
    const widest = Math.max(spread(data.source), spread(data.target)) / (look.parallel ? 1 : eye.distance);
    gl.uniform1i(shade.at("reach"), Math.round(clamp(widest / 2 + ratio / 2, ratio, 5 * ratio)));
    gl.bindVertexArray(gpu.screen);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    if (look.lines !== "none" && matches.source.count) renderLines(look, eye, motion, ramp, palette, [width, height], ratio);
    return eye;
  }

  function renderPoints(look, eye, motion, ramp, palette, spread, ratio) {
    const { points } = gpu;
    const radius = data.fit.after.radius;
    const axis = "xyz".indexOf(look.section);
    const sign = look.flip ? -1 : 1;
    const at = sign * radius * look.at;
    points.use();
    gl.uniformMatrix4fv(points.at("viewProjection"), false, forGpu(eye.matrix));
    gl.uniform1f(points.at("largest"), 32 * ratio);
    gl.uniform3fv(points.at("push"), eye.back.map((v) => -v * data.residualLimit));
    gl.uniform2f(points.at("recede"), -eye.depthSlope, look.parallel ? 0 : 1);
    gl.uniform1i(points.at("colorMode"), COLORS.indexOf(look.color));
    gl.uniform3fv(points.at("ramp[0]"), ramp);
    gl.uniform3fv(points.at("neutral"), palette.neutral);
    gl.uniform3fv(points.at("shared"), palette.shared);
    gl.uniform3fv(points.at("up"), up);
    gl.uniform2fv(points.at("heights"), data.heights.map((h) => h - dot(up, origin)));
    gl.uniform4f(points.at("plane"), ...[0, 1, 2].map((a) => (a === axis ? sign : 0)), at + (look.slice ? radius * SLICE / 2 : 0));
    gl.uniform1f(points.at("slab"), look.slice ? radius * SLICE : 1e30);
    for (const [side, matrix, shown, plain] of [[gpu.target, shift, look.target, palette.target], [gpu.source, motion, look.source, palette.source]]) {
      if (!shown || !side.cloud.count) continue;
      gl.bindVertexArray(side.vao);
      gl.vertexAttrib3f(3, ...palette.neutral);
      gl.uniformMatrix4fv(points.at("model"), false, forGpu(multiply(matrix, dequantise(side.cloud))));
      gl.uniform1f(points.at("spread"), spread(side.cloud));
      gl.uniform1f(points.at("bulge"), 0.15 * look.size * side.cloud.spacing);
      gl.uniform3fv(points.at("plain"), plain);
      gl.uniform3fv(points.at("pale"), mix(plain, palette.ground, 0.6));
      gl.uniform1i(points.at("isSource"), side === gpu.source ? 1 : 0);
      gl.drawArrays(gl.POINTS, 0, side.cloud.count);
    }
  }

  function renderLines(look, eye, motion, ramp, palette, screen, ratio) {
    const { lines } = gpu;
    lines.use();
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    gl.uniformMatrix4fv(lines.at("viewProjection"), false, forGpu(eye.matrix));
    gl.uniformMatrix4fv(lines.at("fromModel"), false, forGpu(multiply(motion, dequantise(matches.source))));
    gl.uniformMatrix4fv(lines.at("toModel"), false, forGpu(multiply(shift, dequantise(matches.target))));
    gl.uniform2fv(lines.at("screen"), screen);
    gl.uniform2f(lines.at("wanted"), look.lines === "inliers" ? 0 : 1, look.lines === "outliers" ? 0 : 1);
    gl.uniform1f(lines.at("width"), 1.2 * ratio);
    gl.uniform1f(lines.at("least"), least(look));
    gl.uniform1f(lines.at("nearest"), look.parallel ? 0 : eye.near);
    gl.uniform3fv(lines.at("tints[0]"), [...palette.outlier, ...palette.inlier]);
    gl.uniform3fv(lines.at("ramp[0]"), ramp);
    gl.uniform1i(lines.at("byConfidence"), look.color === "confidence" ? 1 : 0);
    gl.bindVertexArray(gpu.matches.vao);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, matches.source.count);
  }

  return { start, choosePose, countLines, camera, render, anglesOf, isLost: () => gl.isContextLost(), limit: () => gl.getParameter(gl.MAX_TEXTURE_SIZE) };
}
