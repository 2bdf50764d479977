// An image from outside: dropped anywhere, pasted, or chosen as a file.
export function takeImages(take, say) {
  const file = document.getElementById("file"), body = document.body;
  document.getElementById("pick").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files[0]) take(file.files[0]);
    file.value = ""; // the same file may be chosen again
  });
  let depth = 0; // entering a child is told before leaving its parent
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (!carries(event)) return;
    depth++;
    body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (carries(event) && --depth <= 0) body.classList.remove("dropping");
  });
  addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    depth = 0;
    body.classList.remove("dropping");
    if (!event.dataTransfer) return;
    event.preventDefault();
    const [dropped] = event.dataTransfer.files;
    if (dropped) take(dropped);
    else say("Links are not followed: save the image, and drop the file.");
  });
  addEventListener("paste", (event) => {
    const item = [...(event.clipboardData?.items ?? [])].find((one) => one.type.startsWith("image/"));
    if (!item) return;
    event.preventDefault();
    take(item.getAsFile());
  });
}
