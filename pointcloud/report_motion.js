"use strict";
// Vectors and 4x4 row-major matrices in doubles; floats appear only on the way to the GPU.
const add = (a, b, k = 1) => a.map((value, i) => value + k * b[i]);
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((value) => value / (Math.hypot(...a) || 1));
const mix = (a, b, k) => a.map((value, i) => value + k * (b[i] - value));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const move = (m, p) => [0, 1, 2].map((i) => m[4 * i] * p[0] + m[4 * i + 1] * p[1] + m[4 * i + 2] * p[2] + m[4 * i + 3]);
const multiply = (a, b) => a.map((_, k) => [0, 1, 2, 3].reduce((s, j) => s + a[4 * (k >> 2) + j] * b[4 * j + (k & 3)], 0));
const forGpu = (m) => new Float32Array(m.map((_, k) => m[4 * (k & 3) + (k >> 2)]));

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const shorts = (text) => new Int16Array(bytes(text).buffer);
const point = (cloud, q, i) => [0, 1, 2].map((a) => cloud.offset[a] + (q[3 * i + a] + 32768) * cloud.scale[a]);
const dequantise = ({ offset, scale }) => [
  scale[0], 0, 0, offset[0] + 32768 * scale[0], 0, scale[1], 0, offset[1] + 32768 * scale[1],
  0, 0, scale[2], offset[2] + 32768 * scale[2], 0, 0, 0, 1];

function quaternion(m, scale) {
  const r = (i, j) => m[4 * i + j] / scale;
  // The largest of the four candidates, so that nothing is divided by a small number.
  const q = [
    [1 + r(0, 0) + r(1, 1) + r(2, 2), r(2, 1) - r(1, 2), r(0, 2) - r(2, 0), r(1, 0) - r(0, 1)],
    [r(2, 1) - r(1, 2), 1 + r(0, 0) - r(1, 1) - r(2, 2), r(0, 1) + r(1, 0), r(0, 2) + r(2, 0)],
    [r(0, 2) - r(2, 0), r(0, 1) + r(1, 0), 1 - r(0, 0) + r(1, 1) - r(2, 2), r(1, 2) + r(2, 1)],
    [r(1, 0) - r(0, 1), r(0, 2) + r(2, 0), r(1, 2) + r(2, 1), 1 - r(0, 0) - r(1, 1) + r(2, 2)],
  ].reduce((best, c, i) => (c[i] > best.value ? { value: c[i], c } : best), { value: -1, c: [1, 0, 0, 0] }).c;
  const n = unit(q);
  return n[0] < 0 ? n.map((value) => -value) : n;
}

// Slerp from "no rotation"; the cloud turns about its middle `c`, which travels on a straight line.
function between(start, pose, c, blend) {
  if (blend >= 1) return pose;
  const size = Math.cbrt(Math.abs(dot(pose.slice(0, 3), cross(pose.slice(4, 7), pose.slice(8, 11))))) || 1;
  const q = quaternion(pose, size);
  const angle = 2 * Math.atan2(Math.hypot(q[1], q[2], q[3]), q[0]) * blend;
  const [x, y, z] = unit(q.slice(1)).map((value) => value * Math.sin(angle / 2));
  const w = Math.cos(angle / 2);
  const s = Math.pow(size, blend);
  const R = [
    1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
    2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
    2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)].map((value) => value * s);
  const middle = mix(move(start, c), move(pose, c), blend);
  const row = (i) => [...R.slice(3 * i, 3 * i + 3), middle[i] - dot(R.slice(3 * i, 3 * i + 3), c)];
  return [...row(0), ...row(1), ...row(2), 0, 0, 0, 1];
}
