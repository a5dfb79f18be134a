"use strict";
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const $ = (id) => document.getElementById(id);
  const canvas = $("view");
  const form = $("controls");
  const root = document.documentElement;
  const hasPose = data.poses.length > 0;
  const view = makeCanvas(canvas, data);
  const fresh = defaults(view.anglesOf(data.view), data.poses.length);
  let state = fromFragment(location.hash, fresh, data.poses.length);
  let queued = false, playing = 0, linking = 0;

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
  const palette = () => Object.fromEntries(
    ["ground", "source", "target", "shared", "neutral", "inlier", "outlier"].map((name) => [name, rgb(css(`--${name}`))]));
  const hex = (color) => `#${color.map((v) => Math.round(255 * v).toString(16).padStart(2, "0")).join("")}`;

  function format(value) {
    const [length, unit] = data.unit !== "m" || value >= 0.1 ? [value, data.unit] : value >= 0.01 ? [100 * value, "cm"] : [1000 * value, "mm"];
    return `${length >= 1000 ? Math.round(length) : Number(length.toPrecision(3))} ${unit}`.trim();
  }

  /** What the colours mean: [mark, colour, text]. */
  function legendParts() {
    const { source, target, shared, neutral, ground, inlier, outlier } = palette();
    const pale = (color) => hex(mix(color, ground, 0.6));
    const parts = {
      cloud: [["dot", hex(source), "source"], ["dot", hex(target), "target"]],
      residual: [["", "", "0"], ["ramp", "", `${format(data.residualLimit)} or more`], ["dot", hex(neutral), "target"]],
      overlap: [["dot", hex(shared), `in both, within ${format(data.residualLimit / 2)}`], ["dot", pale(source), "source only"], ["dot", pale(target), "target only"]],
      confidence: [["", "", "confidence 0"], ["ramp", "", "1"], ["dot", hex(neutral), "no match near"]],
      original: data.source.colors && data.target.colors ? [["", "", "colours of the files"]] : [["", "", "colours of the files"], ["dot", hex(neutral), "has none"]],
      height: [["", "", "low"], ["ramp", "", `high (${format(data.heights[1] - data.heights[0])})`]],
    }[state.color].slice();
    const tint = (color) => (state.color === "confidence" ? css("--muted") : hex(color));
    if (state.lines === "inliers" || state.lines === "all") parts.push(["line", tint(inlier), "inlier"]);
    if (state.lines === "outliers" || state.lines === "all") parts.push(["dash", tint(outlier), "outlier"]);
    return parts;
  }

  function legend() {
    $("legend").replaceChildren(...legendParts().map(([kind, color, text]) => {
      const part = document.createElement("span");
      const mark = document.createElement("i");
      mark.className = kind;
      mark.style.setProperty("--mark", color);
      part.append(...(kind ? [mark] : []), text);
      return part;
    }));
  }

  /** A round length near 120 pixels of the page, and how many of them it takes. */
  function scaleLength(pixel) {
    const wanted = 120 * pixel;
    const power = 10 ** Math.floor(Math.log10(wanted));
    const length = [5, 2, 1].map((k) => k * power).find((value) => value <= wanted) || power;
    return { text: format(length), pixels: length / pixel };
  }

  function draw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      if (view.isLost()) return;
      const ratio = clamp(window.devicePixelRatio || 1, 1.5, 2);
      const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(2, Math.round(side * ratio)));
      if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
      const eye = view.render(state, width, height, ratio, palette());
      const bar = scaleLength(eye.pixel * ratio);
      $("bar").style.width = `${bar.pixels}px`;
      $("bar").firstElementChild.textContent = bar.text;
      legend();
      const shown = state.lines === "none" ? 0 : view.countLines(state);
      $("size-out").textContent = state.size.toFixed(1);
      $("threshold-out").textContent = state.lines === "none" ? state.threshold.toFixed(2) : `${state.threshold.toFixed(2)}, ${shown} shown`;
      $("section-box").hidden = state.section === "off";
      root.dataset.viewer = "ready";
      root.dataset.lines = shown;
    });
  }

  /** Every change of the picture comes through here: state, controls, drawing, and a moment later the address. */
  function set(change) {
    const repose = "pose" in change && change.pose !== state.pose;
    Object.assign(state, change);
    if (repose) choosePose();
    showState(form, state);
    draw();
    clearTimeout(linking);
    linking = setTimeout(link, 250);
  }

  function link() {
    try {
      history.replaceState(null, "", `#${toFragment(state, fresh)}`);
    } catch {
      // A page inside a frame or an archive may not change its address; the picture does not depend on it.
    }
  }

  function choosePose() {
    view.choosePose(state.pose);
    const pose = data.poses[state.pose];
    if (!pose) return;
    $("matrix").textContent = pose.text;
    $("matrix-label").textContent = `Shown: ${pose.label}.`;
    for (const button of document.querySelectorAll("[data-pose]")) button.setAttribute("aria-pressed", String(+button.dataset.pose === state.pose));
  }

  const turned = (dx, dy) => { const [yaw, pitch, ...rest] = state.eye; set({ eye: [yaw - dx, clamp(pitch + dy, -1.553, 1.553), ...rest] }); };
  const zoomed = (factor) => { const [yaw, pitch, zoom, ...pan] = state.eye; set({ eye: [yaw, pitch, clamp(zoom * factor, 0.02, 20), ...pan] }); };
  const lookFrom = (pitch) => set({ eye: [fresh.eye[0], pitch, ...fresh.eye.slice(2)] });

  function panned(dx, dy) {
    const eye = view.camera(state, canvas.clientWidth, canvas.clientHeight);
    const [yaw, pitch, zoom, ...pan] = state.eye;
    set({ eye: [yaw, pitch, zoom, ...add(add(pan, eye.right, -dx * eye.pixel), eye.top, dy * eye.pixel)] });
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
      const k = clamp((now - began) / 2200, 0, 1);
      set({ blend: from + (1 - from) * k * k * (3 - 2 * k) });
      if (k < 1) playing = requestAnimationFrame(step);
      else stop();
    };
    $("play").textContent = "Pause";
    playing = requestAnimationFrame(step);
  }

  const jump = (blend) => { stop(); set({ blend }); };
  const cycle = (key, values, by = 1) => set({ [key]: values[(values.indexOf(state[key]) + by + values.length) % values.length] });

  async function copyText(text, what, element) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Pages opened from disk may not reach the clipboard: select the text and use the older command.
      getSelection().selectAllChildren(element);
      if (!document.execCommand("copy")) return notice(`Copying is not allowed here: the ${what} is selected, press Ctrl+C.`);
    }
    notice(`Copied the ${what}.`);
  }

  const copyMatrix = () => copyText(data.poses[state.pose].text, `matrix of ${data.poses[state.pose].label.toLowerCase()}`, $("matrix"));

  function copyLink() {
    link();
    $("address").textContent = location.href;
    return copyText(location.href, "link", $("address"));
  }

  /** The picture as on the page, `times` as fine, on white, with its legend, scale and caption below it. */
  function picture(times) {
    root.dataset.theme = "light";
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [wide * times, high * times];
    const eye = view.render(state, canvas.width, canvas.height, times, palette());
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [wide * times, (high + 84) * times];
    const pen = sheet.getContext("2d");
    pen.fillStyle = css("--ground");
    pen.fillRect(0, 0, sheet.width, sheet.height);
    pen.drawImage(canvas, 0, 0);
    pen.scale(times, times);
    const ink = css("--ink");
    let x = 16;
    const write = (text, at, y, font, color, align = "left", widest = wide - 32) => {
      pen.font = `${font} system-ui, sans-serif`;
      pen.fillStyle = color;
      pen.textAlign = align;
      pen.fillText(text, at, y, widest);
      return pen.measureText(text).width;
    };
    for (const [kind, color, text] of legendParts()) {
      pen.fillStyle = pen.strokeStyle = color || ink;
      if (kind === "dot") { pen.beginPath(); pen.arc(x + 5, high + 13, 5, 0, 7); pen.fill(); x += 16; }
      if (kind === "line" || kind === "dash") {
        pen.lineWidth = 2.5;
        pen.setLineDash(kind === "dash" ? [5, 3] : []);
        pen.beginPath(); pen.moveTo(x, high + 13); pen.lineTo(x + 20, high + 13); pen.stroke();
        x += 26;
      }
      if (kind === "ramp") {
        const shades = pen.createLinearGradient(x, 0, x + 110, 0);
        data.ramp.forEach((shade, i) => shades.addColorStop(i / (data.ramp.length - 1), `rgb(${shade})`));
        pen.fillStyle = shades;
        pen.fillRect(x, high + 8, 110, 10);
        x += 117;
      }
      x += write(text, x, high + 17.5, "13px", ink) + (kind ? 16 : 7);
    }
    const bar = scaleLength(eye.pixel * times);
    const right = wide - 16;
    pen.strokeStyle = ink;
    pen.lineWidth = 1.5;
    pen.setLineDash([]);
    pen.strokeRect(right - bar.pixels, high + 16, bar.pixels, 0);
    write(bar.text, right - bar.pixels / 2, high + 11, "12px", ink, "center");
    write(`${data.verdict}   ${data.names.source} to ${data.names.target}`, 16, high + 46, "600 15px", ink);
    const pose = data.poses[state.pose];
    const moved = state.blend === 1 ? "" : state.blend === 0 ? " (drawn before it)" : ` (drawn at ${Math.round(100 * state.blend)} % of the way)`;
    write(pose ? `${pose.label}: ${pose.caption}${moved}` : "No pose could be formed", 16, high + 68, "13px", css("--muted"));
    delete root.dataset.theme;
    draw();
    return sheet;
  }

  function save() {
    const times = Math.min(+$("times").value, Math.floor(view.limit() / Math.max(canvas.clientWidth, canvas.clientHeight + 84)));
    const sheet = picture(Math.max(times, 1));
    sheet.toBlob((blob) => {
      const anchor = document.createElement("a");
      anchor.href = URL.createObjectURL(blob);
      anchor.download = "registration.png";
      anchor.click();
      setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
      notice(`Saved registration.png, ${sheet.width} by ${sheet.height} pixels.`);
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
        zoomed(gap / spread());
        panned(dx / 2, dy / 2);
      } else if (event.buttons & 6 || event.shiftKey) panned(dx, dy);
      else turned(dx * 0.007, dy * 0.007);
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => held.delete(event.pointerId));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => set({ eye: fresh.eye }));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoomed(Math.exp(clamp(event.deltaY * (event.deltaMode ? 16 : 1), -240, 240) * 0.0015));
    }, { passive: false });
  }

  function keyControls() {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const threshold = (by) => set({ threshold: clamp(Math.round(100 * (state.threshold + by)) / 100, 0, 1) });
    const poses = data.poses.map((_, i) => i);
    // Letters work wherever the focus is; arrows, zoom and space only in the picture, as the page needs them elsewhere.
    const anywhere = {
      r: () => set({ eye: fresh.eye }), t: () => lookFrom(1.553), o: () => set({ parallel: !state.parallel }), l: () => cycle("lines", CHOICES.lines),
      "[": () => threshold(-0.05), "]": () => threshold(0.05), s: save, k: copyLink,
      ...(hasPose && { b: () => jump(0), a: () => jump(1), c: copyMatrix, n: () => cycle("pose", poses), p: () => cycle("pose", poses, -1) }),
    };
    CHOICES.color.forEach((color, i) => { anywhere[i + 1] = () => allowed(color) && set({ color }); });
    const inPicture = { "+": () => zoomed(0.88), "=": () => zoomed(0.88), "-": () => zoomed(1.14), ...(hasPose && { " ": play }) };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
      const here = event.target === canvas;
      const arrow = here && arrows[event.key];
      const action = anywhere[event.key] || (here && inPicture[event.key]);
      if (arrow && event.shiftKey) panned(-24 * arrow[0], -24 * arrow[1]);
      else if (arrow) turned(-0.09 * arrow[0], -0.09 * arrow[1]);
      else if (action) action();
      else return;
      event.preventDefault();
    });
  }

  const allowed = (color) => {
    if (color === "original") return Boolean(data.source.colors || data.target.colors);
    if (color === "confidence") return data.correspondences.source.count > 0;
    return hasPose || !["residual", "overlap"].includes(color);
  };

  function formControls() {
    $("pose").replaceChildren(...data.poses.map((pose, i) => new Option(pose.score === null ? pose.label : `${pose.label}, score ${pose.score.toFixed(2)}`, i)));
    $("pose-box").hidden = data.poses.length < 2;
    $("copy").disabled = !hasPose;
    $("morph").hidden = !hasPose;
    $("lines-box").hidden = data.correspondences.source.count === 0;
    for (const radio of form.elements.color) radio.disabled = !allowed(radio.value);
    $("after-label").textContent = data.status === "not_registered" ? "Best guess, not accepted" : "After";
    const count = ({ count, total }, name) => `${count.toLocaleString("en")} of ${total.toLocaleString("en")} ${name}`;
    $("shown").textContent = `Drawn: ${count(data.source, "source")} and ${count(data.target, "target points")}`
      + `${data.correspondences.source.count ? `, ${count({ count: data.correspondences.source.count, total: data.correspondences.total }, "correspondences")}` : ""}.`
      + (data.startShifted ? " The frames lie far apart: before, the source is drawn beside the target." : "");
    form.addEventListener("input", ({ target }) => {
      if (!(target.name in state)) return;
      if (target.name === "blend") stop();
      set(stateOf(target));
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    const actions = { play, copy: copyMatrix, save, link: copyLink, reset: () => set({ eye: fresh.eye }), top: () => lookFrom(1.553), side: () => lookFrom(0) };
    for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);
    for (const button of document.querySelectorAll("[data-pose]")) {
      button.addEventListener("click", () => { set({ pose: +button.dataset.pose }); canvas.scrollIntoView({ block: "nearest" }); });
    }
  }

  function restart() {
    if (!view.start()) return false;
    choosePose();
    draw();
    return true;
  }

  if (!restart()) {
    root.dataset.viewer = "unavailable";
    $("message").textContent = "WebGL 2 is not available in this browser, so the clouds cannot be drawn. All results are in the tables below.";
    for (const button of document.querySelectorAll("[data-pose]")) button.disabled = true;
    return;
  }
  if (!allowed(state.color)) state.color = "cloud";
  for (const element of [$("legend"), $("bar"), $("panel")]) element.hidden = false;
  $("message").hidden = true;
  formControls();
  pointerControls();
  keyControls();
  showState(form, state);
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", restart);
  addEventListener("hashchange", () => set(fromFragment(location.hash, fresh, data.poses.length)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas);
})();
