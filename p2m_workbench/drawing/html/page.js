/* three.js r97. The MIT License, Copyright © 2010-2018 three.js authors. Permission is hereby granted, free of charge,
to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal in the
Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so,
subject to the following conditions: The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS
OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY,
WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE
OR OTHER DEALINGS IN THE SOFTWARE. */
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
async function inflated(packed) {
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate")));
}
// three.js itself, to be awaited before THREE is used.
const three = (async () => {
  const script = document.createElement("script");
  script.textContent = await (await inflated(bytes("{{packed}}"))).text();
  document.head.appendChild(script);
})();

// Frames of numbers: differences to the frame before, their low bytes, then their high ones, deflated.
async function unpacked(stored) {
  const planes = new Uint8Array(await (await inflated(bytes(stored.packed))).arrayBuffer());
  const half = planes.length / 2, grid = new Uint16Array(half), size = half / stored.frames;
  for (let at = 0; at < half; at++) grid[at] = planes[at] + 256 * planes[half + at] + (at < size ? 0 : grid[at - size]);
  return Array.from({length: stored.frames}, (_, n) => grid.subarray(n * size, (n + 1) * size));
}

// A colour ramp as a texture, and where on it a share from 0 to 1 lies: in the middle of its first and last texel at the
// ends. Below it, at v < 0.5, may be one colour for what has no place on the ramp.
const RAMP_PX = 256;
const onRamp = share => Math.min(share, 1) * (RAMP_PX - 1) / RAMP_PX + 0.5 / RAMP_PX;
function rampTexture(ramp, beside) {
  const texels = [];
  if (beside) for (let k = 0; k < RAMP_PX; k++) texels.push(...beside);
  for (let k = 0; k < RAMP_PX; k++) {
    const place = k / (RAMP_PX - 1) * (ramp.length - 1), low = Math.min(Math.floor(place), ramp.length - 2);
    for (let i = 0; i < 3; i++) texels.push(ramp[low][i] + (place - low) * (ramp[low + 1][i] - ramp[low][i]));
  }
  const made = new THREE.DataTexture(Uint8Array.from(texels), RAMP_PX, beside ? 2 : 1, THREE.RGBFormat);
  made.minFilter = made.magFilter = THREE.LinearFilter;
  made.needsUpdate = true;
  return made;
}
