// The camera of the notebook's browser, for a box of class p2m-webcam: a button opens it, another takes the photo, which
// a hidden field hands to the kernel as a JPEG in a data URI.
(style) => {
  const box = style.closest(".p2m-webcam");
  if (!box || box.dataset.listens) return;
  box.dataset.listens = "yes";
  const REASONS = {
    NotAllowedError: "The browser did not allow the camera. Allow it beside the page's address, then press again.",
    NotFoundError: "The browser sees no camera on this computer.",
    NotReadableError: "Another program is using the camera.",
  };
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, autoplay: true });
  const say = (text) => { box.querySelector(".p2m-note").textContent = text; };
  const show = (stream) => {
    video.srcObject = stream;
    box.querySelector(".p2m-camera-view").append(video);
    box.classList.toggle("p2m-on", Boolean(stream));
  };
  const close = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    show(null);
  };
  const open = async () => {
    if (!navigator.mediaDevices?.getUserMedia) {
      say("A browser gives its camera only to pages from https or from localhost. Open the notebook so, or upload a photo.");
      return;
    }
    say("");
    try {
      show(await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: "user" } }));
    } catch (problem) {
      say(REASONS[problem.name] || `The camera cannot be used: ${problem.message}`);
    }
  };
  const take = () => {
    if (!video.videoWidth) return; // no frame yet
    const picture = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    picture.getContext("2d").drawImage(video, 0, 0);
    const field = box.querySelector(".p2m-shot textarea");
    field.value = picture.toDataURL("image/jpeg", 0.92);
    for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
    close();
  };
  box.addEventListener("click", (event) => {
    if (event.target.closest(".p2m-camera")) (video.srcObject ? close : open)();
    if (event.target.closest(".p2m-take")) take();
  });
}
