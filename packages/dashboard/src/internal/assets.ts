/**
 * The files of the page, which hold no data: anybody may read them.
 */
import { sha256 } from "@millrace/core/sha256"
import { Server } from "@millrace/http"
import { Effect } from "effect"
import * as Base64Url from "effect/encoding/Base64Url"
import { HttpServerResponse } from "effect/http"
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { client } from "./client.ts"
import { html } from "./html.ts"
import { style } from "./style.ts"

const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const library = (file: string): string =>
  readFileSync(createRequire(import.meta.url).resolve(`uplot/dist/${file}`), "utf8")

/** Makes the route of a file, which browsers keep for as long as its digest is the same. */
const file = (path: `/${string}`, contentType: string, text: string): Server.Route<never> => {
  const bytes = new TextEncoder().encode(text)
  const etag = `"${Base64Url.encode(sha256(bytes).subarray(0, 12))}"`
  const headers = {
    etag,
    "cache-control": "no-cache",
    "content-security-policy": policy,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer"
  }
  return Server.route("GET", path, (request) =>
    Effect.succeed(
      request.headers["if-none-match"] === etag
        ? HttpServerResponse.empty({ status: 304, headers })
        : HttpServerResponse.uint8Array(bytes, { contentType, headers })
    ))
}

/** What the page is told about its program. */
export interface Setting {
  readonly title: string
  readonly path: string
  readonly canAct: boolean
}

const escaped = (text: string): string => text.replace(/[&<>"']/g, (each) => `&#${each.charCodeAt(0)};`)

/** Makes the routes of the page at a path. */
export const routes = (path: `/${string}`, setting: Setting): ReadonlyArray<Server.Route<never>> => {
  // bundlers that keep names of functions call this helper
  const script = `const __name=(each)=>each;(${client.toString()})()`
  return [
    file(
      path,
      "text/html; charset=utf-8",
      html({
        title: escaped(setting.title),
        path: escaped(path),
        setting: escaped(JSON.stringify(setting))
      })
    ),
    file(`${path}/page.js`, "text/javascript; charset=utf-8", script),
    file(`${path}/plot.js`, "text/javascript; charset=utf-8", library("uPlot.iife.min.js")),
    file(`${path}/page.css`, "text/css; charset=utf-8", `${library("uPlot.min.css")}\n${style}`)
  ]
}
