import "./styles/main.css";

import { VueQueryPlugin } from "@tanstack/vue-query";
import { createApp } from "vue";

import { newQueryClient } from "./api/queries";
import App from "./App.vue";
import { createConsoleRouter } from "./router";

createApp(App)
  .use(VueQueryPlugin, { queryClient: newQueryClient() })
  .use(createConsoleRouter())
  .mount("#app");
