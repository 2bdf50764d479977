let revision = "", looked = 0, looking = null; // of the index that the ids here are of; when it was last asked for

const ofIndex = (place, own = revision) => (own ? `${place}${place.includes("?") ? "&" : "?"}revision=${own}` : place);
const outOfDate = () => dispatchEvent(new Event("outofdate"));

// What the service is asked. A refusal becomes an Error with its words and its cure.
async function ask(place, options = {}) {
  let answer;
  try {
    answer = await fetch(place, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer.");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  if (answer.status === 409) outOfDate();
  const reasons = Object.values(body.errors || {}).filter(Boolean);
  const words = [body.error || `the service answered ${answer.status}`, ...reasons.filter((text) => text !== body.error)];
  throw new Error(`${words.join(": ")}${body.cure ? `; ${body.cure}` : ""}.`);
}

const posted = (body, signal) => ({
  method: "POST", signal, body: JSON.stringify(body), headers: { "content-type": "application/json" },
});
const raw = (blob, signal) => ({
  method: "POST", signal, body: blob,
  headers: { "content-type": blob.type.startsWith("image/") ? blob.type : "application/octet-stream" },
});

export async function info() {
  const about = await ask("/v1/info");
  revision = about.index?.revision ?? "";
  return about;
}

// An image could not be shown: was the index brought up to date since? An image's own answer cannot be read. One look
// every five seconds at most; what fails in between is covered by the next.
export function lookAgain() {
  looking ??= new Promise((over) => setTimeout(over, looked + 5000 - Date.now())).then(look);
}

async function look() {
  looked = Date.now();
  looking = null;
  const now = await ask("/v1/info").catch(() => null);
  if (now && (now.index?.revision ?? "") !== revision) outOfDate();
}

export const map = () => ask(ofIndex("/v1/map"));
export const duplicates = () => ask(ofIndex("/v1/duplicates"));
export const decide = (decisions) => ask("/v1/duplicates", posted({ decisions }));
export const imageAt = (id, size, own) => ofIndex(`/v1/images/${id}?size=${size}`, own);
export const named = async (ids) => (await ask(ofIndex("/v1/images"), posted({ ids }))).images;

// What is asked without ids is of the index as it is now, though the page be of one before: items say whose their ids are.
export async function called(path) {
  const { images: [item], revision: own } = await ask("/v1/images", posted({ paths: [path] }));
  return { ...item, revision: own };
}
export const onMap = (items) => items.filter((item) => item.revision === revision).map((item) => item.id);

export async function predict(blob, signal) {
  const { predictions } = await ask("/v1/predict?top=3", raw(blob, signal));
  return predictions[0].labels || [];
}

// ``asked`` is {path} or {blob}; ``wanted`` {label, path, where, min, top}. Gives {hits, notes}.
export async function search(asked, wanted, signal) {
  const { hits, notes, revision: own } = await ask(...searching(asked, wanted, signal));
  return { hits: hits.map((hit) => ({ ...hit, revision: own })), notes };
}

// Images that meet the filters, in the order of the index; ``last``: the page before, if any. Gives {images, total, next, notes}.
export async function browse(wanted, last, signal) {
  const query = new URLSearchParams({ limit: wanted.top, ...(last && { after: last.next, revision: last.revision }) });
  for (const condition of conditions(wanted)) query.append("where", condition);
  const page = await ask(`/v1/images?${query}`, { signal });
  return { ...page, images: page.images.map((item) => ({ ...item, revision: page.revision })) };
}

function searching(asked, wanted, signal) {
  const where = conditions(wanted), score = wanted.min === "" ? {} : { min_score: Number(wanted.min) };
  if (asked.blob) {
    const query = new URLSearchParams({ top: wanted.top, ...score });
    for (const condition of where) query.append("where", condition);
    return [`/v1/search?${query}`, raw(asked.blob, signal)];
  }
  return ["/v1/search", posted({ path: asked.path, top: Number(wanted.top), where, ...score }, signal)];
}

// A file name without wildcards is looked for anywhere in the path; conditions on other fields are divided by semicolons.
function conditions({ label, path, where }) {
  const glob = path && (/[*?[]/.test(path) ? path : `*${path}*`);
  const others = (where || "").split(";").map((text) => text.trim());
  return [label && `label=${label}`, glob && `path~${glob}`, ...others].filter(Boolean);
}
