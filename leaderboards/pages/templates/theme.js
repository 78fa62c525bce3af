// Light or dark: the system's, until the reader chooses.

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// Some browsers keep no storage for files: the theme then lasts until the page is closed.
function theme(choice) {
  document.documentElement.dataset.theme = choice;
  nameTheme();
  try { localStorage.setItem("theme", choice); } catch { /* nothing to keep it in */ }
}

function nameTheme() {
  replace("theme", isDark() ? "Light mode" : "Dark mode");
}

function restoreTheme() {
  nameTheme();
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* nothing was kept */ }
  if (kept === "dark" || kept === "light") theme(kept);
}

restoreTheme();
document.getElementById("theme").addEventListener("click", () => theme(isDark() ? "light" : "dark"));
