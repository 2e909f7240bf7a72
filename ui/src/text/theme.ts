import { ref } from "vue";

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "tg-theme"; // public/theme.js reads it before the first paint
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function stored(): Theme {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : "system";
  } catch {
    return "system";
  }
}

export const theme = ref<Theme>(stored());
/** What the page is shown in: charts draw themselves again when it changes. */
export const isDark = ref(document.documentElement.dataset.theme === "dark");

function apply(): void {
  isDark.value = theme.value === "dark" || (theme.value === "system" && systemIsDark.matches);
  document.documentElement.dataset.theme = isDark.value ? "dark" : "light";
}

export function chooseTheme(next: Theme): void {
  theme.value = next;
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // Storage is forbidden: the choice holds until the page is left.
  }
  apply();
}

systemIsDark.addEventListener("change", apply);
addEventListener("storage", (event) => {
  if (event.key !== KEY) return;
  theme.value = stored();
  apply();
});
apply();
