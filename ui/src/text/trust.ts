export const BAND_NAMES = ["trusted", "watch", "quarantined", "compromised"] as const;
export type Band = (typeof BAND_NAMES)[number];

export const BANDS: Record<Band, { label: string; mark: string; text: string; range: string }> = {
  trusted: { label: "Trusted", mark: "var(--ok-mark)", text: "", range: "80 to 100" },
  watch: { label: "Watch", mark: "var(--warn-mark)", text: "text-warn", range: "50 to 79" },
  quarantined: {
    label: "Quarantined",
    mark: "var(--note-mark)",
    text: "text-note",
    range: "20 to 49: gets no keys",
  },
  compromised: {
    label: "Compromised",
    mark: "var(--bad-mark)",
    text: "text-bad font-semibold",
    range: "below 20",
  },
};

export function bandOf(score: number): Band {
  if (score >= 80) return "trusted";
  if (score >= 50) return "watch";
  return score >= 20 ? "quarantined" : "compromised";
}
