// The storage of the browser, which it may block or fill, and to which anybody may have written.

export function load(key, area = "localStorage") {
  try {
    return JSON.parse(window[area].getItem(key));
  } catch {
    return null;
  }
}

export function save(key, value, area = "localStorage") {
  try {
    window[area].setItem(key, JSON.stringify(value));
  } catch {
    // The page goes on with what it knows itself.
  }
}
