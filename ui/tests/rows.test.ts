import { expect, it } from "vitest";
import { nextTick, ref, shallowRef } from "vue";

import { useSteadyRows } from "@/components/steadyRows";

interface Row {
  id: string;
  cpu: number;
}

function setUp(first: Row[]) {
  const rows = shallowRef(first);
  const held = ref(false);
  const page = ref("1");
  const steady = useSteadyRows<Row>(
    () => rows.value,
    (row) => row.id,
    held,
    () => page.value,
  );
  const ids = (): string[] => steady.shown.value.map(({ row }) => row.id);
  return { rows, held, page, steady, ids };
}

const a = { id: "a", cpu: 1 };
const b = { id: "b", cpu: 2 };
const c = { id: "c", cpu: 3 };

it("moves rows freely while nobody points at them", async () => {
  const { rows, ids } = setUp([a, b]);
  rows.value = [b, c, a];
  await nextTick();
  expect(ids()).toEqual(["b", "c", "a"]);
});

it("takes on new values in place while rows are held", async () => {
  const { rows, held, steady, ids } = setUp([a, b]);
  held.value = true;
  rows.value = [{ ...b, cpu: 99 }, a];
  await nextTick();
  expect(ids()).toEqual(["a", "b"]);
  expect(steady.shown.value[1]?.row.cpu).toBe(99);
  expect(steady.pending.value).toBe(2);
});

it("keeps a row that has gone where it stood, until it is let go", async () => {
  const { rows, held, steady, ids } = setUp([a, b]);
  held.value = true;
  await nextTick();
  rows.value = [b, c];
  await nextTick();
  expect(ids()).toEqual(["a", "b"]);
  expect(steady.shown.value[0]).toEqual({ row: a, isGone: true });
  held.value = false;
  await nextTick();
  expect(ids()).toEqual(["b", "c"]);
  expect(steady.pending.value).toBe(0);
});

it("shows another page at once, held or not", async () => {
  const { rows, held, page, ids } = setUp([a, b]);
  held.value = true;
  page.value = "2";
  rows.value = [c];
  await nextTick();
  expect(ids()).toEqual(["c"]);
});

it("lets go when asked", async () => {
  const { rows, held, steady, ids } = setUp([a, b]);
  held.value = true;
  rows.value = [c, a, b];
  await nextTick();
  steady.release();
  expect(ids()).toEqual(["c", "a", "b"]);
});

it("shows the first rows that come at once, though the pointer was there before them", async () => {
  const { rows, held, steady, ids } = setUp([]);
  held.value = true;
  await nextTick();
  rows.value = [a, b];
  await nextTick();
  expect(ids()).toEqual(["a", "b"]);
  expect(steady.pending.value).toBe(0);
});
