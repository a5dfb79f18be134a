"use strict";
// What the viewer shows, as one flat object that the form shows and the address holds: a link reproduces the picture.
const CHOICES = {
  color: ["cloud", "residual", "overlap", "confidence", "original", "height"],
  lines: ["none", "inliers", "outliers", "all"],
  section: ["off", "x", "y", "z"],
};

/** State of a fresh page; `angles` are yaw and pitch, `poses` how many poses there are. */
const defaults = (angles, poses) => ({
  pose: 0, blend: poses ? 1 : 0, color: "cloud", lines: "none", threshold: 0, size: 1.6, source: true, target: true, shading: true,
  parallel: false, section: "off", at: 0, slice: false, flip: false, eye: [...angles, 1, 0, 0, 0],
});

const RANGES = { blend: [0, 1], threshold: [0, 1], size: [0.4, 6], at: [-1, 1] };

/** `#pose=1&color=residual`: only what differs from a fresh page. */
function toFragment(state, fresh) {
  const text = (value) => {
    if (Array.isArray(value)) return value.map(text).join(",");
    if (typeof value === "boolean") return value ? "1" : "0";
    return typeof value === "number" ? String(+value.toPrecision(6)) : value;
  };
  return Object.keys(fresh).filter((key) => text(state[key]) !== text(fresh[key])).map((key) => `${key}=${text(state[key])}`).join("&");
}

/** The state that a fragment describes; what it does not name, or names wrongly, is as on a fresh page. */
function fromFragment(fragment, fresh, poses) {
  const state = { ...fresh };
  for (const [key, text] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    const usual = fresh[key];
    const number = text === "" ? NaN : Number(text);
    if (key === "pose") state.pose = Number.isInteger(number) && number >= 0 && number < poses ? number : usual;
    else if (key in CHOICES) state[key] = CHOICES[key].includes(text) ? text : usual;
    else if (typeof usual === "boolean") state[key] = text === "1";
    else if (key in RANGES) state[key] = Number.isFinite(number) ? clamp(number, ...RANGES[key]) : usual;
    else if (key === "eye") {
      const values = text.split(",").map(Number);
      if (values.length === usual.length && values.every(Number.isFinite) && values[2] > 0) state.eye = values;
    }
  }
  return state;
}

/** Shows the state in the controls of a form, whose names are the state's. */
function showState(form, state) {
  for (const control of form.elements) {
    if (!(control.name in state)) continue;
    if (control.type === "checkbox") control.checked = state[control.name];
    else if (control.type === "radio") control.checked = state[control.name] === control.value;
    else control.value = state[control.name];
  }
}

/** The part of the state that a control holds. */
function stateOf(control) {
  if (control.type === "checkbox") return { [control.name]: control.checked };
  return { [control.name]: control.type === "radio" ? control.value : Number(control.value) };
}
