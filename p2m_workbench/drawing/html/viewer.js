"use strict";
// `about` is what the page is told: topologies, samples (each with its content and thumbnail, or the file that brings both), colours.
var take;  // called by the files of a gallery
(async () => {
const $ = id => document.getElementById(id);
const canvas = $("view");

// --- data ------------------------------------------------------------------------------------------
const topologies = await Promise.all(about.topologies.map(levels => Promise.all(levels.map(async level => {
  const index = level.wide ? new Uint32Array(bytes(level.index).buffer) : (await unpacked(level.index))[0];
  return Object.assign({}, level, {index});
}))));

// A level at the vertices of the next one: each new vertex in the mean of its old neighbours.
function unpooled(coarse, count, index) {
  const old = coarse.length / 3, out = new Float32Array(3 * count), found = new Float32Array(count);
  out.set(coarse);
  const seen = new Set();
  for (let k = 0; k < index.length; k++) {
    const a = index[k], b = index[k % 3 === 2 ? k - 2 : k + 1];
    for (const [fresh, from] of [[a, b], [b, a]]) {
      const key = fresh * count + from;
      if (fresh < old || from >= old || seen.has(key)) continue;
      seen.add(key);
      found[fresh]++;
      for (let i = 0; i < 3; i++) out[3 * fresh + i] += coarse[3 * from + i];
    }
  }
  for (let v = old; v < count; v++) for (let i = 0; i < 3; i++) out[3 * v + i] /= found[v];
  return out;
}

// What units of an expression move: which vertices, one bit each, and by how much, 8 bits a coordinate.
function unpackedWays(ways, count) {
  return ways.map(way => {
    if (!way.moved) return null;
    const bits = new Uint8Array(bytes(way.moved)), by = new Int8Array(bytes(way.by).buffer), moved = [];
    for (let v = 0; v < count; v++) if (bits[v >> 3] >> (v & 7) & 1) moved.push(v);
    return {moved, by, step: way.step};
  });
}
// The sum of ways, each by its amount, added to coordinates.
function addWays(position, ways, amounts) {
  ways.forEach((way, unit) => {
    if (!way || !amounts[unit]) return;
    const scale = amounts[unit] * way.step;
    way.moved.forEach((v, k) => { for (let i = 0; i < 3; i++) position[3 * v + i] += scale * way.by[3 * k + i]; });
  });
}

const ramped = count => new THREE.BufferAttribute(new Float32Array(2 * count).fill(0.5), 2);

// Grids are stored by what they differ from: a level from the one before at its vertices, the truth from the last level.
async function decode(sample) {
  const content = sample.content, topology = topologies[sample.topology], grids = [];
  const more = async (stored, base) => Uint16Array.from((await unpacked(stored))[0], (by, k) => by + Math.floor((base[k] || 0) + 0.5));
  for (const [k, stored] of content.levels.entries())
    grids.push(await more(stored, k ? unpooled(grids[k - 1], topology[k].vertices, topology[k].index) : []));
  const placed = grid => Float32Array.from(grid, (q, k) => content.low[k % 3] + content.step * q);
  const points = async (stored, base) => placed(await more(stored, base || []));
  const ends = grids.map(placed), template = content.template && await points(content.template);
  const clay = content.clay ? (await unpacked(content.clay))[0] : null;  // of meshes with eyes and a mouth
  const made = {name: content.name, painted: Boolean(clay), counted: content.counted && (await unpacked(content.counted))[0], width: content.width, height: content.height, topology, ends,
    landmarks: await points(content.landmarks), truth: content.truth ? await points(content.truth, grids[grids.length - 1]) : null,
    maximum: content.errorMaximum, first: content.template ? 0 : 1, last: ends.length};
  made.starts = ends.map((end, k) => k ? unpooled(ends[k - 1], end.length / 3, topology[k].index)
    : template || end);
  made.levels = topology.map((level, k) => {
    const geometry = new THREE.BufferGeometry(), count = level.vertices;
    geometry.setIndex(new THREE.BufferAttribute(level.index, 1));
    geometry.addAttribute("position", new THREE.BufferAttribute(new Float32Array(ends[k]), 3));
    // Where each vertex lies on the photo, and where on the ramps of errors and of clay: one of these is the surface's uv.
    const spot = new Float32Array(2 * count);
    for (let v = 0; v < count; v++) {
      spot[2 * v] = (ends[k][3 * v] + 0.5) / content.width;
      spot[2 * v + 1] = 1 - (0.5 - ends[k][3 * v + 1]) / content.height;
    }
    const uvs = {ramp: ramped(count), clay: ramped(count)};
    if (clay) for (let v = 0; v < count; v++) uvs.clay.array[2 * v] = onRamp(clay[v] / 255);
    geometry.addAttribute("uv", uvs.clay);
    geometry.computeVertexNormals();
    const onPhoto = new THREE.BufferGeometry();
    onPhoto.setIndex(geometry.index);
    for (const name of ["position", "normal"]) onPhoto.addAttribute(name, geometry.attributes[name]);
    onPhoto.addAttribute("uv", new THREE.BufferAttribute(spot, 2));
    const truth = made.truth ? new THREE.BufferGeometry() : null;
    if (truth) {
      truth.setIndex(geometry.index);
      truth.addAttribute("position", new THREE.BufferAttribute(made.truth.slice(0, 3 * count), 3));
      truth.computeVertexNormals();
    }
    return {geometry, onPhoto, uvs, truth, stage: k + 1};
  });
  if (content.moving) made.moving = decodeMoving(content.moving, made.levels[made.last - 1], clay);
  const box = new THREE.Box3().setFromArray(ends[ends.length - 1]);
  made.centre = box.getCenter(new THREE.Vector3());
  made.extent = box.getSize(new THREE.Vector3());
  made.size = Math.max(made.extent.x, made.extent.y, made.extent.z);
  made.floor = Math.min(...[...ends, ...made.starts].map(array => array.reduce((low, z, k) => k % 3 === 2 && z < low ? z : low, Infinity)));
  if (made.truth) {
    const flat = new THREE.Box3().setFromArray(made.truth.filter((_, k) => made.counted[Math.floor(k / 3)])).getSize(new THREE.Vector3());
    made.faceSize = Math.sqrt(flat.x * flat.y);
  }
  return made;
}
// Units that move the finest level, and eyeballs that are seen through its eyes.
function decodeMoving(told, level, clay) {
  const count = level.geometry.attributes.position.count, index = level.geometry.index.array;
  const offset = new Float32Array(3 * count);
  // Without the mesh's eyes, in whose place are eyeballs; and of the skin alone, which has a texture.
  const corner = place => 255 * place / (about.clayRamp.length - 1);
  for (const [name, least, most] of [["open", -1, 1.5], ["openSkin", 0.5, 1.5]]) {
    const kept = [];
    for (let k = 0; k < index.length; k += 3) {
      const corners = [index[k], index[k + 1], index[k + 2]];
      if (corners.every(v => clay[v] > corner(least) && clay[v] < corner(most))) kept.push(...corners);
    }
    level[name] = new THREE.BufferGeometry();
    level[name].setIndex(new THREE.BufferAttribute(new Uint32Array(kept), 1));
    for (const part in level.geometry.attributes) level[name].addAttribute(part, level.geometry.attributes[part]);
  }
  level.openSkin.addAttribute("uv", new THREE.BufferAttribute(new Float32Array(bytes(told.uv).buffer), 2));
  const eyes = told.eyes.map(eye => {
    const neutral = new Float32Array(bytes(eye.neutral).buffer), geometry = new THREE.BufferGeometry();
    geometry.setIndex(new THREE.BufferAttribute(new Uint16Array(bytes(eye.index).buffer), 1));
    geometry.addAttribute("position", new THREE.BufferAttribute(neutral.slice(), 3));
    const inPicture = new THREE.BufferAttribute(new Float32Array(bytes(eye.uv).buffer), 2), onClay = ramped(neutral.length / 3);
    new Uint8Array(bytes(eye.clay)).forEach((place, v) => { onClay.array[2 * v] = onRamp(place / 255); });
    return {neutral, geometry, inPicture, onClay, picture: texture(eye.picture), ways: unpackedWays(eye.ways, neutral.length / 3)};
  });
  return {names: told.names, inPhoto: told.strength, strength: told.strength.slice(), offset, eyes,
    picture: texture(told.picture), ways: unpackedWays(told.ways, count)};
}
// Distance of each vertex to its true place, without the mean depth of those that count, in percent of the face size.
function errorsOf(position, truth, counted, faceSize) {
  const count = position.length / 3, out = new Float32Array(count);
  const depth = mean(Float32Array.from({length: count}, (_, v) => position[3 * v + 2] - truth[3 * v + 2]), counted);
  for (let v = 0; v < count; v++) {
    const x = position[3 * v] - truth[3 * v], y = position[3 * v + 1] - truth[3 * v + 1];
    out[v] = 100 * Math.hypot(x, y, position[3 * v + 2] - truth[3 * v + 2] - depth) / faceSize;
  }
  return out;
}
// Over the vertices that count: a mouth's membrane has no true place.
function mean(values, counted) {
  let sum = 0, number = 0;
  for (let v = 0; v < values.length; v++) if (counted[v]) { sum += values[v]; number++; }
  return sum / Math.max(number, 1);
}

// --- scene -----------------------------------------------------------------------------------------
let renderer;
try {
  await three;
  renderer = new THREE.WebGLRenderer({canvas, antialias: true, alpha: true, preserveDrawingBuffer: true});
} catch (problem) {
  $("error").textContent = "The 3D view needs WebGL and a browser of 2023 or later.";
  $("error").style.display = "grid";
  throw problem;
}
renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, 2));
renderer.autoClear = false;
renderer.setClearColor(0x000000, 0);

let loading = 0;  // pictures on their way
function texture(uri) {
  loading++;
  return new THREE.TextureLoader().load(uri, made => {
    made.minFilter = THREE.LinearFilter;
    made.generateMipmaps = false;
    made.anisotropy = renderer.capabilities.getMaxAnisotropy();
    made.needsUpdate = true;
    loading--;
    draw();
  });
}
const behind = {polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 2};
const spheres = {};
for (const name in about.spheres) spheres[name] = texture(about.spheres[name]);
const surface = (sphere, options) => new THREE.MeshMatcapMaterial(Object.assign(
  {matcap: spheres[sphere], side: THREE.DoubleSide, transparent: true}, behind, options));
const materials = {clay: surface("clay"), normals: surface("normals"), error: surface("paper", {map: rampTexture(about.ramp)}),
  painted: surface("white", {map: rampTexture(about.clayRamp)}), photo: surface("paper", {depthWrite: false}), texture: surface("paper", {depthWrite: false}), mouth: surface("white", {color: `rgb(${about.clayRamp[0]})`}), truth: surface("clay", {color: 0x5fb9ac})};
const lines = new THREE.MeshBasicMaterial({wireframe: true, transparent: true, depthWrite: false});

const scene = new THREE.Scene(), spin = new THREE.Group(), shift = new THREE.Group();
const camera = new THREE.OrthographicCamera(-1, 1, 1, -1, 0, 40);
scene.add(camera, spin);
spin.add(shift);
// Everything is in the transparent queue, so renderOrder alone decides: the photo first, then depth only,
// then the surface, of which a low opacity thus shows the front layer and no more.
function add(object, order, parent) {
  object.renderOrder = order;
  (parent || shift).add(object);
  return object;
}
const photo = add(new THREE.Mesh(new THREE.PlaneBufferGeometry(1, 1),
  new THREE.MeshBasicMaterial({transparent: true, depthWrite: false})), 0, scene);
const depth = add(new THREE.Mesh(undefined, new THREE.MeshBasicMaterial(
  Object.assign({colorWrite: false, transparent: true, side: THREE.DoubleSide}, behind))), 1);
const solid = add(new THREE.Mesh(undefined, materials.clay), 2);
const skin = add(new THREE.Mesh(undefined, materials.photo), 3);
const trueSolid = add(new THREE.Mesh(undefined, materials.truth), 4);
const wire = add(new THREE.Mesh(undefined, lines), 5);
const eyeballs = [0, 1].map(() => add(new THREE.Mesh(new THREE.BufferGeometry(), surface("paper", {})), 2));

function tile(paint) {
  const made = document.createElement("canvas");
  made.width = made.height = 64;
  paint(made.getContext("2d"));
  return new THREE.CanvasTexture(made);
}
function disc(fill, rim, radius, wide) {
  return tile(pen => {
    pen.beginPath();
    pen.arc(32, 32, radius, 0, 2 * Math.PI);
    if (fill) { pen.fillStyle = fill; pen.fill(); }
    if (rim) { pen.lineWidth = wide + 6; pen.strokeStyle = "#141c26"; pen.stroke(); pen.lineWidth = wide; pen.strokeStyle = rim; pen.stroke(); }
  });
}
function dots(sizePx, map, order, onTop) {
  return add(new THREE.Points(new THREE.BufferGeometry(), new THREE.PointsMaterial({size: sizePx * renderer.getPixelRatio(),
    sizeAttenuation: false, map, transparent: true, depthWrite: false, depthTest: !onTop})), order);
}
const vertexDots = dots(5, disc("#a9e4d8", null, 26), 6);
const landmarkDots = dots(9, disc("#40e0b4", "#14202a", 24, 5), 7);
const ring = dots(22, disc(null, "#fff", 20, 7), 8, true);
ring.geometry.addAttribute("position", new THREE.BufferAttribute(new Float32Array(3), 3));

// --- the sample on show ------------------------------------------------------------------------------
const samples = about.samples, waiting = new Map();
let shown = null, wanted = -1, chosen = null;
// Files of a gallery come as scripts, which also work where a page from a disk may not fetch.
function fetchSample(number) {
  const sample = samples[number];
  if (sample.made) return Promise.resolve(sample.made);
  if (!waiting.has(number)) waiting.set(number, new Promise((resolve, reject) => {
    const finish = async content => {
      sample.content = content;
      sample.made = await decode(sample);
      sample.made.texture = texture(content.photo);
      sample.made.mask = texture(content.seen);
      sample.content = null;
      resolve(sample.made);
    };
    if (sample.content) { finish(sample.content); return; }
    sample.finish = finish;
    const script = document.createElement("script");
    script.src = sample.file + ".js";
    script.onerror = () => { waiting.delete(number); reject(new Error(`${sample.file}.js is missing`)); };
    document.head.appendChild(script);
  }));
  return waiting.get(number);
}
take = (number, content) => samples[number].finish(content);

function enter(number) {
  wanted = number;
  for (const [k, button] of [...$("gallery").children].entries()) button.classList.toggle("on", k === number);
  return fetchSample(number).then(made => {
    if (wanted !== number) return;  // another one was chosen meanwhile
    const finest = !shown || +$("level").value === shown.last;
    shown = made;
    chosen = null;
    $("name").textContent = made.name;
    $("level").min = made.first;
    $("level").max = made.last;
    if (finest) $("level").value = made.last;
    setJumps();
    setUnits();
    photo.scale.set(made.width, made.height, 1);
    photo.material.map = made.texture;
    materials.photo.map = made.texture;
    materials.photo.alphaMap = made.mask;
    photo.material.needsUpdate = materials.photo.needsUpdate = true;
    landmarkDots.geometry.dispose();
    landmarkDots.geometry = new THREE.BufferGeometry();
    landmarkDots.geometry.addAttribute("position", new THREE.BufferAttribute(made.landmarks, 3));
    landmarkDots.position.set(0, 0, 0.008 * made.size);
    // Every mesh has its centre in the origin and its longest side 1, so the camera may stay where it is.
    const scale = 1 / made.size;
    spin.scale.set(scale, scale, scale);
    shift.position.copy(made.centre).negate();
    photo.scale.multiplyScalar(scale);
    photo.position.set((made.width - 1) / 2, (1 - made.height) / 2, made.floor - 0.02 * made.size).sub(made.centre).multiplyScalar(scale);
    for (const id of ["withTruth", "errorChoice"]) $(id).hidden = !made.truth;
    if (made.truth) {
      const digits = made.maximum < 4 && made.maximum % 2 ? 1 : 0;
      $("half").textContent = percent(made.maximum / 2, digits);
      $("full").textContent = "≥ " + percent(made.maximum, Number.isInteger(made.maximum) ? 0 : 1);
    }
    if (view.span === framed) view.span = framed = frame();
    show();
    document.body.dataset.sample = number;
  }).catch(problem => { $("name").textContent = problem.message; });
}
const stageNow = () => +$("level").value;
const levelNow = () => Math.max(Math.ceil(stageNow() - 1e-9), 1);

// --- camera: orthographic, so that from the front every vertex lies on its own pixel of the photo -----
const view = {azimuth: 0, elevation: 0, span: 1, target: new THREE.Vector3()};
let framed = 1, pending = false;
function draw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(now => { pending = false; render(now); });
}
const beside = () => shown && shown.truth && picked("truth") === "beside";
const viewWidth = () => Math.max(1, canvas.clientWidth) / (beside() ? 2 : 1);  // a frame may have no size yet
const direction = new THREE.Vector3();
function aim() {
  const level = Math.cos(view.elevation);
  direction.set(level * Math.sin(view.azimuth), Math.sin(view.elevation), level * Math.cos(view.azimuth));
  camera.position.copy(view.target).addScaledVector(direction, 20);
  camera.lookAt(view.target);
  const aspect = viewWidth() / Math.max(1, canvas.clientHeight);
  camera.top = view.span / 2; camera.bottom = -camera.top;
  camera.right = camera.top * aspect; camera.left = -camera.right;
  camera.updateProjectionMatrix();
  camera.updateMatrixWorld();
}
let turnedAt = null;
function render(now) {
  if (!shown) return;
  const wide = canvas.clientWidth, high = canvas.clientHeight, size = renderer.getSize();
  if (size.width !== wide || size.height !== high) renderer.setSize(wide, high, false);
  if ($("turntable").checked) {
    if (turnedAt !== null && now !== undefined) spin.rotation.y += (now - turnedAt) / 9000 * 2 * Math.PI;
    turnedAt = now === undefined ? turnedAt : now;
    draw();
  } else turnedAt = null;
  aim();
  // The photo belongs to the view from the front: it fades as the view leaves it.
  const facing = Math.min(Math.max((direction.z - 0.2) / 0.7, 0), 1);
  photo.material.opacity = facing * facing * (3 - 2 * facing) * 0.85 + 0.15 * (direction.z > 0);
  renderer.clear();
  if (!beside()) {
    renderer.setViewport(0, 0, wide, high);
    renderer.render(scene, camera);
  } else {
    const half = wide / 2, mine = [solid, skin, landmarkDots, ...eyeballs].map(object => [object, object.visible]);
    renderer.setViewport(0, 0, half, high);
    trueSolid.visible = false;
    renderer.render(scene, camera);
    renderer.setViewport(half, 0, half, high);
    for (const [object] of mine) object.visible = false;
    const geometry = wire.geometry, level = shown.levels[levelNow() - 1];
    trueSolid.visible = picked("style") !== "wire" && picked("style") !== "points";
    wire.geometry = depth.geometry = level.truth;
    if (vertexDots.visible) vertexDots.geometry = level.truth;
    renderer.clearDepth();
    renderer.render(scene, camera);
    wire.geometry = depth.geometry = vertexDots.geometry = geometry;
    for (const [object, visible] of mine) object.visible = visible;
  }
  // Two frames later it can be seen.
  if (!loading) requestAnimationFrame(() => requestAnimationFrame(() => { document.body.dataset.ready = "true"; }));
}
// A view that nobody has zoomed shows the whole face.
function frame() {
  if (!shown) return 1;
  const aspect = viewWidth() / Math.max(1, canvas.clientHeight);
  return 1.28 * Math.max(shown.extent.y, shown.extent.x / aspect) / shown.size;
}
let flight = 0;  // tickets: the latest movement of the camera, and of the level slider, ends those before it
let slide = 0;
const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
function animate(milliseconds, valid, step) {
  const start = performance.now();
  (function next() {
    if (!valid()) return;
    const t = still ? 1 : Math.min((performance.now() - start) / milliseconds, 1);
    step(t * t * (3 - 2 * t));
    if (t < 1) requestAnimationFrame(next);
  })();
}
function fly(to) {
  const from = {azimuth: view.azimuth, elevation: view.elevation, span: view.span, target: view.target.clone()};
  // The short way round, whatever number of turns the user has made.
  from.azimuth = Math.atan2(Math.sin(from.azimuth - to.azimuth), Math.cos(from.azimuth - to.azimuth)) + to.azimuth;
  const ticket = ++flight;
  animate(420, () => ticket === flight, s => {
    for (const key of ["azimuth", "elevation", "span"]) view[key] = from[key] + s * (to[key] - from[key]);
    view.target.lerpVectors(from.target, to.target, s);
    draw();
  });
  framed = to.span;
}
const home = () => ({azimuth: 0, elevation: 0, span: frame(), target: new THREE.Vector3()});

function pan(dx, dy) {
  const px = view.span / canvas.clientHeight, side = new THREE.Vector3(), up = new THREE.Vector3();
  camera.matrixWorld.extractBasis(side, up, new THREE.Vector3());
  view.target.addScaledVector(side, -dx * px).addScaledVector(up, dy * px);
}
// Where the pointer is, in px from the middle of the view that it is in.
function within(x, y) {
  const rect = canvas.getBoundingClientRect(), wide = viewWidth();
  return {dx: (x - rect.left) % wide - wide / 2, dy: y - rect.top - rect.height / 2, right: x - rect.left > wide};
}
function zoom(factor, x, y) {
  const {dx, dy} = within(x, y), span = Math.min(Math.max(view.span * factor, 0.05), 12), real = span / view.span;
  pan(-dx * (1 - real), -dy * (1 - real));  // what lies under the pointer stays there
  view.span = span;
}
function turn(dx, dy) {
  const speed = Math.PI / Math.max(300, canvas.clientHeight);
  view.azimuth -= dx * speed;
  view.elevation = Math.min(Math.max(view.elevation + dy * speed, -1.5), 1.5);
}
const fingers = new Map();
let travelled = 0;
canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId);
  canvas.focus({preventScroll: true, focusVisible: false});
  canvas.classList.add("dragging");
  if (!fingers.size) travelled = 0;
  fingers.set(event.pointerId, {x: event.clientX, y: event.clientY, moves: event.button > 0 || event.shiftKey});
  flight++;
  $("hint").style.opacity = 0;
});
canvas.addEventListener("pointermove", event => {
  const finger = fingers.get(event.pointerId);
  if (!finger) return;
  const before = [...fingers.values()].map(f => ({x: f.x, y: f.y}));
  const dx = event.clientX - finger.x, dy = event.clientY - finger.y;
  travelled += Math.hypot(dx, dy);
  finger.x = event.clientX; finger.y = event.clientY;
  if (fingers.size === 2) {
    const [a, b] = [...fingers.values()], [c, d] = before;
    pan(dx / 2, dy / 2);
    zoom(Math.max(Math.hypot(c.x - d.x, c.y - d.y), 1) / Math.max(Math.hypot(a.x - b.x, a.y - b.y), 1),
      (a.x + b.x) / 2, (a.y + b.y) / 2);
  } else if (finger.moves) pan(dx, dy);
  else if (travelled > 3) turn(dx, dy);
  draw();
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => {
  const finger = fingers.get(event.pointerId);
  fingers.delete(event.pointerId);
  if (!fingers.size) canvas.classList.remove("dragging");
  if (name === "pointerup" && finger && !finger.moves && travelled <= 3) choose(event.clientX, event.clientY);
});
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  flight++;
  const unit = event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 300 : 1;
  zoom(Math.exp(Math.min(Math.max(event.deltaY * unit, -300), 300) * 0.0012), event.clientX, event.clientY);
  draw();
}, {passive: false});
canvas.addEventListener("contextmenu", event => event.preventDefault());
canvas.addEventListener("dblclick", () => fly(home()));
canvas.addEventListener("keydown", event => {
  const rect = canvas.getBoundingClientRect(), x = rect.left + viewWidth() / 2, y = rect.top + rect.height / 2;
  const act = {ArrowLeft: () => turn(-25, 0), ArrowRight: () => turn(25, 0), ArrowUp: () => turn(0, -25),
    ArrowDown: () => turn(0, 25), "+": () => zoom(0.9, x, y), "=": () => zoom(0.9, x, y),
    "-": () => zoom(1 / 0.9, x, y), "0": () => fly(home())}[event.key];
  if (act) { event.preventDefault(); act(); draw(); }
});

// --- controls --------------------------------------------------------------------------------------
const count = n => n.toLocaleString("en-US").replace(/,/g, "\u202f");
const percent = (x, digits) => x.toFixed(digits) + "\u202f%";
const picked = name => document.querySelector(`input[name=${name}]:checked`).value;

// Move the level on show to the slider's stage, and its places on the colour ramp.
function pose(level, k) {
  const stage = stageNow(), part = k + 1 - stage, start = shown.starts[k], end = shown.ends[k];
  if (level.stage !== stage) {
    const position = level.geometry.attributes.position;
    for (let i = 0; i < end.length; i++) position.array[i] = end[i] + part * (start[i] - end[i]);
    if (shown.moving) for (let i = 0; i < end.length; i++) position.array[i] += shown.moving.offset[i];
    position.needsUpdate = true;
    level.geometry.computeVertexNormals();
    level.geometry.boundingSphere = level.onPhoto.boundingSphere = null;
    level.stage = stage;
    level.errors = null;
  }
  if (shown.truth && !level.errors) {
    level.errors = errorsOf(level.geometry.attributes.position.array, shown.truth, shown.counted, shown.faceSize);
    level.errors.forEach((error, v) => {
      level.uvs.ramp.array[2 * v] = onRamp(error / shown.maximum);
    });
    level.uvs.ramp.needsUpdate = true;
  }
}
function show() {
  if (!shown) return;
  const k = levelNow() - 1, level = shown.levels[k], style = picked("style"), truth = shown.truth ? picked("truth") : "off";
  const colored = picked("surface") === "error" && Boolean(shown.truth);
  const opacity = $("opacity").value / 100, alone = truth === "alone";
  pose(level, k);
  level.geometry.attributes.uv = colored ? level.uvs.ramp : level.uvs.clay;
  const front = alone ? level.truth : level.geometry;
  const filled = style === "solid" || style === "edges", open = Boolean(shown.moving) && stageNow() === shown.last && !colored;
  solid.geometry = open ? level.open : level.geometry;
  skin.geometry = open ? level.openSkin : level.onPhoto;
  skin.material = open ? materials.texture : materials.photo;
  if (open) Object.assign(materials.texture, {map: shown.moving.picture, needsUpdate: true});
  for (const object of [wire, vertexDots, depth]) object.geometry = front;
  if (open && filled && !alone) depth.geometry = wire.geometry = level.open;
  if (level.truth) trueSolid.geometry = level.truth;
  solid.visible = filled && !alone;
  const clay = shown.painted ? materials.painted : materials.clay;
  // Where the texture ends is the mouth, beneath it nothing is seen.
  solid.material = open && picked("surface") === "photo" ? materials.mouth : colored ? materials.error : picked("surface") === "normals" ? materials.normals : clay;
  skin.visible = solid.visible && picked("surface") === "photo";
  trueSolid.visible = truth === "over" || (alone && filled);
  for (const name of ["clay", "painted", "normals", "error", "photo", "texture", "mouth"]) materials[name].opacity = opacity;
  materials.truth.opacity = truth === "over" ? 0.55 * opacity : opacity;
  materials.truth.depthWrite = truth !== "over";
  eyeballs.forEach((ball, k) => {
    ball.visible = open && solid.visible;
    if (!ball.visible) return;
    const eye = shown.moving.eyes[k], surfaceOf = picked("surface"), inPicture = surfaceOf === "photo";
    ball.geometry = eye.geometry;
    eye.geometry.addAttribute("uv", inPicture ? eye.inPicture : eye.onClay);
    ball.material.map = inPicture ? eye.picture : surfaceOf === "clay" ? materials.painted.map : null;
    ball.material.matcap = spheres[inPicture ? "paper" : surfaceOf === "clay" ? "white" : "normals"];
    ball.material.opacity = opacity;
    ball.material.needsUpdate = true;
  });
  wire.visible = style === "edges" || style === "wire";
  lines.color.set(style === "wire" ? 0xa9e4d8 : 0x141c26);
  lines.opacity = (style === "wire" ? 0.75 : 0.3) + 0.08 * Math.min(shown.last - k - 1, 3);
  vertexDots.visible = style === "points";
  vertexDots.material.size = (3.5 + Math.min(shown.last - k - 1, 3)) * renderer.getPixelRatio();
  landmarkDots.visible = $("landmarks").checked;
  photo.visible = $("photo").checked;
  $("names").hidden = !beside();
  const part = shown.topology[k], stage = stageNow();
  const where = stage ? `level ${+stage.toFixed(2)}` : "template";
  $("counts").innerHTML = `${where} · ${count(part.vertices)} vertices · ${count(part.faces)} faces` +
    (level.errors ? `<br>mean error <b>${percent(mean(level.errors, shown.counted), 2)}</b>, worst ${percent(Math.max(...level.errors), 1)}` : "");
  for (const button of $("jumps").children) button.classList.toggle("on", +button.dataset.stage === stage);
  document.body.dataset.stage = stage;
  $("percent").textContent = percent(100 * opacity, 0);
  $("legend").hidden = !colored;
  tell();
  draw();
}
// --- expressions -------------------------------------------------------------------------------------
function move() {
  const {offset, strength, inPhoto, ways, eyes} = shown.moving;
  offset.fill(0);
  addWays(offset, ways, strength.map((value, unit) => value - inPhoto[unit]));
  for (const eye of eyes) {
    const position = eye.geometry.attributes.position;
    position.array.set(eye.neutral);
    addWays(position.array, eye.ways, strength);
    position.needsUpdate = true;
    eye.geometry.computeVertexNormals();
  }
  for (const level of shown.levels) level.stage = null;
  for (const [unit, label] of [...$("units").children].entries()) {
    label.querySelector("input").value = strength[unit];
    label.querySelector(".number").textContent = strength[unit].toFixed(2);
  }
  show();
}
function setUnits() {
  $("expressions").hidden = !shown.moving;
  $("units").replaceChildren();
  if (!shown.moving) return;
  shown.moving.names.forEach((name, unit) => {
    const label = document.createElement("label"), input = document.createElement("input"), value = document.createElement("span");
    Object.assign(input, {type: "range", min: 0, max: 1, step: 0.01, id: name});
    input.addEventListener("input", () => { shown.moving.strength[unit] = +input.value; move(); });
    value.className = "number";
    label.append(name, value, input);
    $("units").appendChild(label);
  });
  move();
}
for (const [id, of] of [["asPhoto", moving => moving.inPhoto.slice()], ["asNeutral", moving => moving.inPhoto.map(() => 0)]])
  $(id).addEventListener("click", () => { shown.moving.strength = of(shown.moving); move(); });

// The chosen vertex: a ring around it, its facts, and its place on the error scale.
function tell() {
  const level = shown.levels[levelNow() - 1], there = chosen !== null && chosen < level.geometry.attributes.position.count;
  ring.visible = there;
  $("mark").hidden = !(there && level.errors);
  if (!there) { $("reading").innerHTML = "<span class=soft>Click on the mesh: vertex, error, position</span>"; return; }
  const at = level.geometry.attributes.position, [x, y, z] = [at.getX(chosen), at.getY(chosen), at.getZ(chosen)];
  ring.geometry.attributes.position.array.set([x, y, z]);
  ring.geometry.attributes.position.needsUpdate = true;
  ring.geometry.boundingSphere = null;
  const error = level.errors ? ` · error <b>${percent(level.errors[chosen], 2)}</b>` : "";
  $("reading").innerHTML = `<b>vertex ${chosen}</b>${error}<br><span class=soft>x ${x.toFixed(1)}, y ${(-y).toFixed(1)}, z ${z.toFixed(1)} px</span>`;
  if (level.errors) $("mark").style.left = 100 * Math.min(level.errors[chosen] / shown.maximum, 1) + "%";
}
const caster = new THREE.Raycaster();
function choose(x, y) {
  const {dx, dy, right} = within(x, y), level = shown.levels[levelNow() - 1];
  aim();
  caster.setFromCamera(new THREE.Vector2(2 * dx / viewWidth(), -2 * dy / canvas.clientHeight), camera);
  const target = right || picked("truth") === "alone" ? trueSolid : solid;
  const hit = caster.intersectObject(target)[0];
  chosen = null;
  if (hit) {
    const position = target.geometry.attributes.position, corner = new THREE.Vector3();
    const point = target.worldToLocal(hit.point.clone());
    const away = i => corner.fromBufferAttribute(position, i).distanceToSquared(point);
    chosen = [hit.face.a, hit.face.b, hit.face.c].reduce((a, b) => away(a) <= away(b) ? a : b);
  }
  tell();
  draw();
}

function glide(to) {
  const from = stageNow(), ticket = ++slide;
  animate(420, () => ticket === slide, s => { $("level").value = s < 1 ? from + s * (to - from) : to; show(); });
}
function setJumps() {
  $("jumps").replaceChildren();
  for (let k = shown.first; k <= shown.last; k++) {
    const button = document.createElement("button");
    button.textContent = k || "Template";
    button.dataset.stage = k;
    button.addEventListener("click", () => glide(k));
    $("jumps").appendChild(button);
  }
}
// Arrow keys go from level to level, the mouse anywhere between.
$("level").addEventListener("keydown", event => {
  const stage = stageNow(), to = {ArrowLeft: Math.ceil(stage) - 1, ArrowDown: Math.ceil(stage) - 1,
    ArrowRight: Math.floor(stage) + 1, ArrowUp: Math.floor(stage) + 1, Home: shown.first, End: shown.last}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  glide(Math.min(Math.max(to, shown.first), shown.last));
});
for (const input of document.querySelectorAll("#panel input")) input.addEventListener("input", () => {
  if (input.id === "level") slide++;
  if (input.name === "truth" && view.span === framed) view.span = framed = frame();
  if (input.id === "turntable" && !input.checked) spin.rotation.y = 0;
  show();
});
$("reset").addEventListener("click", () => fly(home()));
$("side").addEventListener("click", () => fly(Object.assign(home(), {azimuth: view.azimuth > 0.6 ? -1 : 1})));
$("save").addEventListener("click", () => {
  render();
  const link = document.createElement("a");
  link.download = `${shown.name}.png`;
  link.href = canvas.toDataURL("image/png");
  link.click();
});
window.addEventListener("resize", () => {
  if (view.span === framed) view.span = framed = frame();
  draw();
});

// --- start -------------------------------------------------------------------------------------------
$("scale").style.background = `linear-gradient(90deg, ${about.ramp.map(rgb => `rgb(${rgb})`).join(", ")})`;
$("protocol").textContent = `${about.protocol}, % of face size`;
if (samples.length > 1 || samples[0].file) {
  document.body.classList.add("many");
  $("gallery").hidden = false;
  for (const [number, sample] of samples.entries()) {
    const button = document.createElement("button"), picture = document.createElement("img");
    picture.loading = "lazy";
    picture.alt = button.title = sample.name;
    picture.src = sample.thumbnail || sample.file + ".jpg";
    button.appendChild(picture);
    if (sample.error !== undefined) {
      const caption = document.createElement("span");
      caption.textContent = percent(sample.error, 2);
      button.appendChild(caption);
    }
    button.addEventListener("click", () => enter(number));
    $("gallery").appendChild(button);
  }
}
enter(0);
})();
