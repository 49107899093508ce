// What needs no kernel, for a box of class p2m-inspector: whose wheel it is, full screen, saving, and its size.
(style) => {
  const box = style.closest(".p2m-inspector");
  if (!box || box.dataset.listens) return;
  box.dataset.listens = "yes";
  const views = () => [...box.querySelectorAll(".jupyter-threejs canvas")].filter((canvas) => canvas.offsetWidth);

  // The wheel scrolls the page, until one has clicked into a view and while the pointer stays there.
  let own = false;
  box.addEventListener("pointerdown", (event) => { own = !!event.target.closest(".jupyter-threejs"); }, true);
  box.addEventListener("pointerleave", () => { own = false; });
  box.addEventListener("wheel", (event) => {
    if (!own && !document.fullscreenElement && event.target.closest(".jupyter-threejs")) event.stopPropagation();
  }, { capture: true, passive: true });

  const save = () => {
    const shown = views(), picture = document.createElement("canvas"), pen = picture.getContext("2d");
    picture.width = shown.reduce((sum, canvas) => sum + canvas.width, 0);
    picture.height = Math.max(...shown.map((canvas) => canvas.height));
    pen.fillStyle = "#20262f";
    pen.fillRect(0, 0, picture.width, picture.height);
    shown.reduce((left, canvas) => (pen.drawImage(canvas, left, 0), left + canvas.width), 0);
    const link = document.createElement("a");
    link.download = `${(box.querySelector(".name")?.textContent || "view").replace(/[^\w.-]+/g, "-")}.png`;
    link.href = picture.toDataURL("image/png");
    link.click();
  };
  const fill = () => (document.fullscreenElement ? document.exitFullscreen() : box.requestFullscreen());
  box.addEventListener("click", (event) => {
    if (event.target.closest(".p2m-save")) save();
    if (event.target.closest(".p2m-full")) fill();
  });

  // The kernel draws as wide as there is room, and as high as the window in full screen: told by a hidden text field.
  const room = box.querySelector(".p2m-views"), field = box.querySelector(".p2m-size input");
  if (!room || !field) return;
  let timer = 0;
  const tell = () => {
    const bottom = box.getBoundingClientRect().bottom, top = room.getBoundingClientRect().top;
    const height = document.fullscreenElement === box ? Math.floor(bottom - top) : 0;
    const value = `${Math.floor(room.clientWidth)} ${height}`;
    if (room.clientWidth < 100 || value === field.value) return;
    field.value = value;
    for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
  };
  new ResizeObserver(() => { clearTimeout(timer); timer = setTimeout(tell, 120); }).observe(room);
  document.addEventListener("fullscreenchange", () => { clearTimeout(timer); timer = setTimeout(tell, 120); });
}
