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
// three.js itself, deflated to a quarter. To be awaited before THREE is used.
const three = (async () => {
  const packed = Uint8Array.from(atob("{{packed}}"), letter => letter.charCodeAt(0));
  const script = document.createElement("script");
  script.textContent = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  document.head.appendChild(script);
})();

// A colour ramp as a texture, and where on it a share from 0 to 1 lies: in the middle of its first and last texel at the ends.
const RAMP_PX = 256;
const onRamp = share => Math.min(share, 1) * (RAMP_PX - 1) / RAMP_PX + 0.5 / RAMP_PX;
function rampTexture(ramp) {
  const data = new Uint8Array(3 * RAMP_PX);
  for (let k = 0; k < RAMP_PX; k++) {
    const place = k / (RAMP_PX - 1) * (ramp.length - 1), low = Math.min(Math.floor(place), ramp.length - 2);
    for (let i = 0; i < 3; i++) data[3 * k + i] = ramp[low][i] + (place - low) * (ramp[low + 1][i] - ramp[low][i]);
  }
  const made = new THREE.DataTexture(data, RAMP_PX, 1, THREE.RGBFormat);
  made.minFilter = made.magFilter = THREE.LinearFilter;
  made.needsUpdate = true;
  return made;
}
