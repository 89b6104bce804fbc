// Draws openapi.json. Text of the document gets in as text only, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const DEPTH_MAX = 6;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function resolve(document_, node) {
  let found = node;
  for (let hops = 0; found && found.$ref && hops < 10; hops += 1) {
    found = found.$ref.split("/").slice(1).reduce((at, part) => at && at[part], document_);
  }
  return found || {};
}

function typeName(document_, schema) {
  const name = schema.$ref && schema.$ref.split("/").pop();
  const found = resolve(document_, schema);
  if (found.enum) return found.enum.map((word) => JSON.stringify(word)).join(" | ");
  if (found.type === "array" || (Array.isArray(found.type) && found.type.includes("array"))) {
    return `list of ${typeName(document_, found.items || {})}`;
  }
  if (found.oneOf || found.anyOf) {
    return (found.oneOf || found.anyOf).map((one) => typeName(document_, one)).join(" or ");
  }
  const type = Array.isArray(found.type) ? found.type.join(" or ") : found.type;
  return name || (found.format ? `${type} (${found.format})` : type) || "object";
}

// The fields of an object and of its parts, one row each; lists and objects of this API are one level deeper.
function fields(document_, schema, prefix, rows, depth) {
  const found = resolve(document_, schema);
  for (const part of found.allOf || []) fields(document_, part, prefix, rows, depth);
  const required = new Set(found.required || []);
  for (const [name, field] of Object.entries(found.properties || {})) {
    const of = resolve(document_, field);
    rows.push([prefix + name, typeName(document_, field), required.has(name) ? "" : "optional", of.description || field.description || ""]);
    const inner = of.items ? of.items : field;
    if (depth < DEPTH_MAX) fields(document_, inner, `${prefix}${name}${of.items ? "[]" : ""}.`, rows, depth + 1);
  }
}

function table(head, rows) {
  const made = element("table");
  const line = (cells, kind) => {
    const row = element("tr");
    cells.forEach((cell, at) => {
      const box = element(kind);
      box.append(at === 0 && kind === "td" ? element("code", cell) : cell);
      row.append(box);
    });
    made.append(row);
  };
  line(head, "th");
  rows.forEach((row) => line(row, "td"));
  return made;
}

function content(document_, title, body) {
  const made = element("div");
  made.append(element("h4", title));
  for (const [kind, media] of Object.entries(body || {})) {
    const rows = [];
    fields(document_, media.schema || {}, "", rows, 0);
    made.append(rows.length ? table(["field", "type", "", "meaning"], rows) : element("p", `${kind}: ${typeName(document_, media.schema || {})}`));
  }
  return made;
}

function operation(document_, method, path, described) {
  const made = element("details");
  made.id = described.operationId || `${method}-${path}`;
  const summary = element("summary");
  summary.append(element("span", method.toUpperCase(), "method"), element("span", path, "path"), element("span", `  ${described.summary || ""}`, "says"));
  made.append(summary);
  made.addEventListener("toggle", () => {
    if (made.open && made.childElementCount === 1) made.append(inside(document_, described));
  });
  made.dataset.text = `${method} ${path} ${described.summary || ""} ${(described.tags || []).join(" ")}`.toLowerCase();
  return made;
}

function inside(document_, described) {
  const made = element("div");
  if (described.description) made.append(element("p", described.description));
  if (!described.security) made.append(element("p", "Wants no key."));
  const parameters = (described.parameters || []).map((parameter) => resolve(document_, parameter));
  if (parameters.length) {
    const rows = parameters.map((p) => [p.name, `${typeName(document_, p.schema || {})}, in the ${p.in}`, p.required ? "" : "optional", p.description || ""]);
    made.append(element("h4", "Parameters"), table(["name", "type", "", "meaning"], rows));
  }
  const body = described.requestBody && resolve(document_, described.requestBody);
  if (body) made.append(content(document_, "Body", body.content));
  for (const [status, answer] of Object.entries(described.responses || {})) {
    const found = resolve(document_, answer);
    made.append(content(document_, `${status === "default" ? "Refused" : status}: ${found.description || ""}`, found.content));
  }
  return made;
}

function draw(document_) {
  document.getElementById("title").textContent = `${document_.info.title} ${document_.info.version}`;
  document.getElementById("description").textContent = document_.info.description || "";
  const tags = new Map();
  for (const [path, item] of Object.entries(document_.paths)) {
    for (const method of METHODS.filter((one) => item[one])) {
      const tag = (item[method].tags || ["other"])[0];
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push(operation(document_, method, path, item[method]));
    }
  }
  const main = document.getElementById("operations");
  main.replaceChildren();
  for (const [tag, operations] of tags) {
    const section = element("section");
    section.append(element("h2", tag), ...operations);
    main.append(section);
  }
  document.getElementById("find").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const section of main.children) {
      let any = false;
      for (const one of section.querySelectorAll("details")) {
        one.hidden = !words.every((word) => one.dataset.text.includes(word));
        any = any || !one.hidden;
      }
      section.hidden = !any;
    }
  });
  const wanted = decodeURIComponent(location.hash.slice(1));
  const target = wanted && document.getElementById(wanted);
  if (target) target.open = true;
}

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then(draw)
  .catch((error) => document.getElementById("operations").replaceChildren(element("p", `openapi.json cannot be read: ${error}`, "wrong")));
