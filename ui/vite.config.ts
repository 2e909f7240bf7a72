import { fileURLToPath } from "node:url";

import tailwindcss from "@tailwindcss/vite";
import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vite";

// The api serves what is built here; while developing, vite passes requests on to it.
const api = process.env.TG_UI_API ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [vue(), tailwindcss()],
  resolve: { alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) } },
  build: {
    outDir: fileURLToPath(new URL("../api/static", import.meta.url)),
    emptyOutDir: true,
    target: "es2023",
    // The Content-Security-Policy allows neither inline scripts nor data: URLs of fonts.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: {
        codeSplitting: {
          groups: [{ name: "charts", test: /node_modules\/(echarts|zrender|tslib)\// }],
        },
      },
    },
  },
  server: { proxy: { "/api": { target: api, changeOrigin: false } } },
});
