// Images of the collection that meet the filters, without a query, page by page.
import * as api from "/api.js";
import { figureOf } from "/figures.js";

const part = (id) => document.getElementById(id);

export const browses = ({ all, label, path, where }) => Boolean(all || label || path || where);

// Shows the first page; the button below brings the next ones. ``say(text)`` tells what went wrong.
export async function browse(wanted, like, say, signal) {
  const further = part("further");
  let last = null;
  const next = async () => {
    further.disabled = true;
    try {
      const page = await api.browse(wanted, last, signal), figures = page.images.map((item) => figureOf(item, like));
      if (last) part("hits").append(...figures);
      else part("hits").replaceChildren(...figures);
      part("heading").textContent = page.total === 1 ? "1 image" : `${page.total.toLocaleString("en")} images`;
      say(page.notes.join(" "));
      last = page;
      further.hidden = page.next === null;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!last) part("hits").replaceChildren();
      say(error.message);
    } finally {
      further.disabled = false;
    }
  };
  further.onclick = next;
  await next();
}
