"use strict";
// `about` is what the page is told: frames, tracks, colours, and where in the drawing of the curves each frame is.
(async () => {
await three;
const $ = id => document.getElementById(id);
const canvas = $("view"), count = about.frames.length;

// --- data --------------------------------------------------------------------------------------------
async function points(stored, track) {
  const frames = await unpacked(stored);
  return frames.map(grid => Float32Array.from(grid, (step, k) => track.low[k % 3] + track.step * step));
}

// --- scene -------------------------------------------------------------------------------------------
const renderer = new THREE.WebGLRenderer({canvas, antialias: true, alpha: true, preserveDrawingBuffer: true});
renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, 2));
renderer.setClearColor(0x000000, 0);
renderer.autoClear = false;
const loader = new THREE.TextureLoader();
let loading = 0;
function texture(uri) {
  loading++;
  return loader.load(uri, made => { made.minFilter = THREE.LinearFilter; made.generateMipmaps = false; loading--; draw(); });
}
const IN_A_ROW = 4, HIGHEST_PX = 360;
const clay = texture(about.spheres.clay), paper = texture(about.spheres.paper), ramp = rampTexture(about.colors.ramp, about.colors.beside);
const photos = about.photos.map(texture);
const surface = options => new THREE.MeshMatcapMaterial(Object.assign({side: THREE.DoubleSide, transparent: true,
  polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 2}, options));
const camera = new THREE.OrthographicCamera(-0.5, 0.5, 0.5, -0.5, 0, 40);

async function build(track) {
  const [index] = (await unpacked(about.topologies[track.topology])).map(corners => Uint32Array.from(corners));
  const frames = await points(track.vertices, track);
  const truths = track.truth && await points(track.truth, track), truth = truths && truths[0];
  const [cloudAt] = track.points ? await points(track.points, track) : [null];
  const shares = track.shares && await unpacked(track.shares);
  const scene = new THREE.Scene(), spin = new THREE.Group(), longer = Math.max(track.width, track.height);
  const add = (object, order, parent) => { object.renderOrder = order; parent.add(object); return object; };
  const mesh = position => {
    const geometry = new THREE.BufferGeometry();
    geometry.setIndex(new THREE.BufferAttribute(index, 1));
    geometry.addAttribute("position", new THREE.BufferAttribute(position, 3));
    geometry.computeVertexNormals();
    return geometry;
  };
  const geometry = mesh(frames[0].slice());
  geometry.addAttribute("uv", new THREE.BufferAttribute(new Float32Array(frames[0].length / 3 * 2).fill(0.75), 2));
  // The photo's frame is the view's; the depth of the last mesh's middle is the axis that everything turns about.
  const last = frames[count - 1], box = new THREE.Box3().setFromArray(cloudAt || truth || last);
  const middle = new THREE.Vector3((track.width - 1) / 2, (1 - track.height) / 2, box.getCenter(new THREE.Vector3()).z);
  spin.scale.setScalar(1 / longer);
  const inner = new THREE.Group();
  inner.position.copy(middle).negate();
  spin.add(inner);
  scene.add(spin);
  const photo = add(new THREE.Mesh(new THREE.PlaneBufferGeometry(track.width / longer, track.height / longer),
    new THREE.MeshBasicMaterial({transparent: true, depthWrite: false})), 0, scene);
  photo.position.z = -2;
  const solid = add(new THREE.Mesh(geometry, surface({matcap: clay})), 1, inner);
  const wire = add(new THREE.Mesh(geometry, new THREE.MeshBasicMaterial({wireframe: true, color: 0x141c26, transparent: true,
    opacity: 0.28, depthWrite: false})), 3, inner);
  const made = {track, scene, spin, photo, solid, wire, frames, truths, shares, geometry, at: -1, photos: track.photos.map(number => photos[number]),
    clay: solid.material, error: surface({matcap: paper, map: ramp})};
  if (truth) {
    made.trueSolid = add(new THREE.Mesh(mesh(truth.slice()), surface({matcap: clay, color: 0x5fb9ac, opacity: 0.55, depthWrite: false})), 2, inner);
  }
  if (cloudAt) {
    const cloud = new THREE.BufferGeometry();
    cloud.addAttribute("position", new THREE.BufferAttribute(cloudAt, 3));
    made.cloud = add(new THREE.Points(cloud, new THREE.PointsMaterial({color: 0x40e0b4, size: 1.6 * renderer.getPixelRatio(),
      sizeAttenuation: false, transparent: true})), 4, inner);
  }
  return made;
}

// --- drawing -----------------------------------------------------------------------------------------
const view = {azimuth: 0, elevation: 0, span: 1};
let tracks = [], pending = false;
const ofFrame = (several, frame) => several[Math.min(frame, several.length - 1)];
function setShape(geometry, position) {
  geometry.attributes.position.array.set(position);
  geometry.attributes.position.needsUpdate = true;
  geometry.computeVertexNormals();
  geometry.boundingSphere = null;
}
// Without the mean depth of both, as nme-dense-3d has it.
function errors(now, truth) {
  const n = now.length / 3, size = new THREE.Box3().setFromArray(truth).getSize(new THREE.Vector3());
  let depth = 0;
  for (let v = 0; v < n; v++) depth += (now[3 * v + 2] - truth[3 * v + 2]) / n;
  return Float32Array.from({length: n}, (_, v) => 100 * Math.hypot(now[3 * v] - truth[3 * v], now[3 * v + 1] - truth[3 * v + 1],
    now[3 * v + 2] - truth[3 * v + 2] - depth) / Math.sqrt(size.x * size.y));
}
function pose(made, frame) {
  const now = made.frames[frame], truth = made.truths && ofFrame(made.truths, frame);
  if (made.at !== frame) {
    setShape(made.geometry, now);
    if (truth && made.truths.length > 1) setShape(made.trueSolid.geometry, truth);
    made.photo.material.map = ofFrame(made.photos, frame);
    made.at = frame;
    made.colored = false;
  }
  if ($("errors").checked && (made.shares || truth) && !made.colored) {
    const uv = made.geometry.attributes.uv;
    if (made.shares) made.shares[frame].forEach((share, v) => { uv.array[2 * v] = onRamp(share / 254); uv.array[2 * v + 1] = share > 254 ? 0.25 : 0.75; });
    else errors(now, truth).forEach((error, v) => { uv.array[2 * v] = onRamp(error / about.errorsTo); });
    uv.needsUpdate = true;
    made.colored = true;
  }
}
function draw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; render(); });
}
function render() {
  if (!tracks.length) return;
  const wide = canvas.clientWidth, beside = made => Boolean(made.cloud && $("points").checked);
  const views = tracks.reduce((sum, made) => sum + 1 + beside(made), 0), across = Math.min(views, IN_A_ROW);
  const side = wide / across, row = Math.min(side, HIGHEST_PX), high = row * Math.ceil(views / across), size = renderer.getSize();
  if (size.width !== wide || size.height !== high) { renderer.setSize(wide, high, false); canvas.style.height = high + "px"; }
  const half = view.span / 2, aspect = side / row;
  camera.top = half; camera.bottom = -half; camera.left = -half * aspect; camera.right = half * aspect;
  camera.position.set(0, 0, 20);
  camera.updateProjectionMatrix();
  renderer.clear();
  const frame = +$("frame").value;
  let place = 0;
  tracks.forEach((made, k) => {
    pose(made, frame);
    made.spin.rotation.set(view.elevation, view.azimuth, 0);
    const turned = Math.max(Math.abs(view.azimuth), Math.abs(view.elevation));
    made.photo.visible = $("photo").checked;
    made.photo.material.opacity = Math.max(0.12, 1 - turned / 0.9);
    made.wire.visible = $("edges").checked;
    made.solid.material = $("errors").checked && (made.truths || made.shares) ? made.error : made.clay;
    if (made.trueSolid) made.trueSolid.visible = $("truth").checked;
    for (const points of beside(made) ? [false, true] : [false]) {
      if (made.cloud) made.cloud.visible = points;
      made.solid.visible = !points;
      made.photo.visible = made.photo.visible && !points;
      made.wire.visible = made.wire.visible && !points;
      const left = place % across * side, top = Math.floor(place / across) * row;
      renderer.setViewport(left, top, side, row);  // r97 counts from the top
      renderer.clearDepth();
      renderer.render(made.scene, camera);
      if (!points) Object.assign($("captions").children[k].style, {left: left + 8 + "px", top: top + 6 + "px", maxWidth: side - 16 + "px"});
      place++;
    }
  });
  if (!loading) requestAnimationFrame(() => requestAnimationFrame(() => { document.body.dataset.ready = "true"; }));
}

// --- the slider, the curves' lines -------------------------------------------------------------------
const lines = about.axes.map(() => $("curves").appendChild(document.createElement("i")));
function go(frame) {
  $("frame").value = $("choice").value = frame;
  $("where").textContent = about.frames[frame];
  [...$("captions").children].forEach((caption, k) => {
    caption.innerHTML = "<b></b><br><span></span>";
    caption.children[0].textContent = about.tracks[k].name;
    caption.children[2].textContent = about.tracks[k].captions[frame];
  });
  about.axes.forEach(([x0, x1, top, bottom, from, to], k) => {
    const share = (about.places[frame] - from) / (to - from);
    Object.assign(lines[k].style, {left: 100 * (x0 + share * (x1 - x0)) + "%", top: 100 * top + "%", height: 100 * (bottom - top) + "%"});
    lines[k].hidden = !(share >= 0 && share <= 1);
  });
  document.body.dataset.frame = frame;
  draw();
}
// A click on a curve goes to the step that is nearest.
$("curves").addEventListener("click", event => {
  const box = $("curves").getBoundingClientRect(), x = (event.clientX - box.left) / box.width;
  const axis = about.axes.find(([x0, x1]) => x >= x0 && x <= x1);
  if (!axis) return;
  const place = axis[4] + (x - axis[0]) / (axis[1] - axis[0]) * (axis[5] - axis[4]);
  const away = about.places.map(at => Math.abs(at - place));
  go(away.indexOf(Math.min(...away)));
});
$("frame").max = count - 1;
about.frames.forEach((name, k) => $("choice").add(new Option(name, k)));
$("choice").addEventListener("input", () => go(+$("choice").value));
$("frame").addEventListener("input", () => go(+$("frame").value));
let timer = null;
function play(on) {
  clearInterval(timer);
  timer = null;
  $("play").textContent = on ? "Pause" : "Play";
  if (!on) return;
  if (+$("frame").value === count - 1) go(0);
  timer = setInterval(() => { const next = +$("frame").value + 1; if (next < count) go(next); else play(false); }, 140);
}
$("play").addEventListener("click", () => play(timer === null));
$("front").addEventListener("click", () => { Object.assign(view, {azimuth: 0, elevation: 0, span: 1}); draw(); });
for (const id of ["photo", "edges", "truth", "errors", "points"]) $(id).addEventListener("input", () => {
  $("scale").hidden = !$("errors").checked;
  draw();
});
let held = null;
canvas.addEventListener("pointerdown", event => { held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", event => {
  if (!held) return;
  turn((event.clientX - held[0]) * 0.008, (event.clientY - held[1]) * 0.008);
  held = [event.clientX, event.clientY];
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
function turn(right, down) {
  view.azimuth += right;
  view.elevation = Math.min(Math.max(view.elevation + down, -1.4), 1.4);
  draw();
}
canvas.addEventListener("keydown", event => {
  const zoom = factor => { view.span = Math.min(Math.max(view.span * factor, 0.1), 4); draw(); };
  const act = {ArrowLeft: () => turn(-0.12, 0), ArrowRight: () => turn(0.12, 0), ArrowUp: () => turn(0, -0.12),
    ArrowDown: () => turn(0, 0.12), "+": () => zoom(0.9), "=": () => zoom(0.9), "-": () => zoom(1 / 0.9)}[event.key];
  if (act) { event.preventDefault(); act(); }
});
// The wheel scrolls the page, unless the view has the focus.
canvas.addEventListener("wheel", event => {
  if (document.activeElement !== canvas) return;
  event.preventDefault();
  view.span = Math.min(Math.max(view.span * Math.exp(event.deltaY * 0.0012), 0.1), 4);
  draw();
}, {passive: false});
window.addEventListener("resize", draw);

// --- start -------------------------------------------------------------------------------------------
for (const made of about.tracks) $("captions").appendChild(document.createElement("span"));
const some = (selector, has) => { for (const part of document.querySelectorAll(selector)) part.hidden = !about.tracks.some(has); };
some(".truth", track => track.truth);
some(".colors", track => track.truth || track.shares);
some(".points", track => track.points);
$("through").hidden = count < 2;
$("play").hidden = about.byName;
$("choice").hidden = !about.byName;
$("where").hidden = about.byName;
$("curves").hidden = !about.axes.length;
$("errors").checked = about.colors.on;
$("errorsTitle").textContent = about.colors.title;
$("scale").hidden = !about.colors.on;
$("scale").children[1].style.background = `linear-gradient(90deg, ${about.colors.ramp.map(rgb => `rgb(${rgb})`).join(", ")})`;
$("least").textContent = about.colors.least;
$("most").textContent = about.colors.most;
tracks = await Promise.all(about.tracks.map(build));
go(about.byName ? 0 : count - 1);
})();
