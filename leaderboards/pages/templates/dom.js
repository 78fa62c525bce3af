// Building the page: elements, numbers, and reading objects whose keys come from results.
// Text enters the document as text alone (never as markup), so no string of a result can become code.

const SVG = "http://www.w3.org/2000/svg";

function get(object, key) {
  return object && Object.hasOwn(object, key) ? object[key] : undefined;
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, action] of Object.entries(value)) node.addEventListener(event, action);
    } else if (name === "heat") {
      node.style.setProperty("--heat", value);
    } else {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null));
  return node;
}

function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

// A label with places where a narrow column may break it: after : , = + and _.
function breakable(label) {
  return (label.match(/[^:,=+_]+[:,=+_]*|[:,=+_]+/g) ?? []).flatMap((piece) => [piece, el("wbr")]);
}

function number(value, digits = 3) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

function signed(value, digits = 3) {
  const text = number(value, digits);
  return Number(text) > 0 ? `+${text}` : text.replace("-", "−");
}

function amount(count) {
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (count >= size) return Number((count / size).toPrecision(3)) + letter;
  }
  return String(Math.round(count));
}

function duration(seconds) {
  return seconds.toFixed(seconds >= 100 ? 0 : 1);
}

function replace(id, ...children) {
  document.getElementById(id).replaceChildren(...children.flat(Infinity).filter((child) => child !== null));
}
