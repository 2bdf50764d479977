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

export const info = () => ask("/v1/info");
export const map = () => ask("/v1/map");
export const duplicates = () => ask("/v1/duplicates");
export const decide = (decisions) => ask("/v1/duplicates", posted({ decisions }));
export const imageAt = (id, size) => `/v1/images/${id}?size=${size}`;
export const named = async (ids) => (await ask("/v1/images", posted({ ids }))).images;

export async function predict(blob, signal) {
  const { predictions } = await ask("/v1/predict?top=3", raw(blob, signal));
  return predictions[0].labels || [];
}

// ``asked`` is {id} or {blob}; ``wanted`` {label, path, where, min, top}
export async function search(asked, wanted, signal) {
  const where = conditions(wanted), score = wanted.min === "" ? {} : { min_score: Number(wanted.min) };
  if (asked.blob) {
    const query = new URLSearchParams({ top: wanted.top, ...score });
    for (const condition of where) query.append("where", condition);
    return (await ask(`/v1/search?${query}`, raw(asked.blob, signal))).hits;
  }
  return (await ask("/v1/search", posted({ id: asked.id, top: Number(wanted.top), where, ...score }, signal))).hits;
}

// A file name without wildcards is looked for anywhere in the path; conditions on other fields are divided by semicolons.
function conditions({ label, path, where }) {
  const glob = path && (/[*?[]/.test(path) ? path : `*${path}*`);
  const others = (where || "").split(";").map((text) => text.trim());
  return [label && `label=${label}`, glob && `path~${glob}`, ...others].filter(Boolean);
}
