/**
 * Fetch's CORS protocol.
 */
import { ask, type Case, of, post } from "./Case.ts"

const fetch = of("Fetch")

const page = "https://app.example.com"
const from = (origin: string) => `origin: ${origin}`
const preflight = (resource: string, origin: string, method: string, ...more: ReadonlyArray<string>) =>
  ask("OPTIONS", resource, [from(origin), `access-control-request-method: ${method}`, ...more])

const allowed = {
  "access-control-allow-origin": page,
  "access-control-allow-credentials": "true",
  vary: /\borigin\b/i
}
const nothing = {
  "access-control-allow-origin": false,
  "access-control-allow-credentials": false,
  "access-control-allow-methods": false,
  "access-control-allow-headers": false
}

const strangers = [
  "https://evil.example",
  "https://app.example.com.evil.example",
  "https://evil-app.example.com",
  "http://app.example.com",
  "https://app.example.com:8443",
  "null"
]

/** The cases. */
export const cases: ReadonlyArray<Case> = [
  fetch("3.3.2", "a page that is listed may read", ["cors"], ask("GET", "{cors}", [from(page)]), {
    status: 200,
    fields: allowed
  }),
  fetch("3.3.3", "a page may read the fields that are said", ["cors"], ask("GET", "{cors}", [from(page)]), {
    status: 200,
    fields: { "access-control-expose-headers": /x-request-id/ }
  }),
  fetch("3.3.5", "an answer without an origin varies by it, too", ["cors"], ask("GET", "{cors}"), {
    status: 200,
    fields: { ...nothing, vary: /\borigin\b/i }
  }),
  ...strangers.map((origin) =>
    fetch("3.3.3", `the page ${origin} may not read`, ["cors"], ask("GET", "{cors}", [from(origin)]), {
      status: 200,
      fields: nothing
    })
  ),
  ...strangers.map((origin) =>
    fetch("3.3.3", `the page ${origin} may not ask`, ["cors"], preflight("{cors}", origin, "GET"), {
      status: [200, 204, 403],
      fields: nothing
    })
  ),
  fetch("3.3.2", "a preflight is answered without a body", ["cors"], preflight("{cors}", page, "GET"), {
    status: [200, 204],
    body: "",
    fields: { ...allowed, "access-control-allow-methods": /\bGET\b/ }
  }),
  fetch(
    "3.3.2",
    "a preflight says the headers that may be sent",
    ["cors"],
    preflight("{cors}", page, "GET", "access-control-request-headers: content-type,x-other"),
    {
      status: [200, 204],
      fields: { "access-control-allow-headers": /content-type.*x-other/ }
    }
  ),
  fetch(
    "3.3.2",
    "a preflight repeats no headers that are none",
    ["cors"],
    preflight("{cors}", page, "GET", "access-control-request-headers: a b; c"),
    {
      status: [200, 204],
      fields: { "access-control-allow-headers": false }
    }
  ),
  fetch("3.3.3", "a preflight may be kept", ["cors"], preflight("{cors}", page, "GET"), {
    status: [200, 204],
    fields: { "access-control-max-age": /^\d+$/ }
  }),
  fetch("3.3.5", "a preflight varies by what it asks", ["cors"], preflight("{cors}", page, "GET"), {
    status: [200, 204],
    fields: { vary: /origin.*access-control-request-method.*access-control-request-headers/i }
  }),
  fetch(
    "3.3.2",
    "a preflight needs no credential",
    ["corsPrivate"],
    preflight("{corsPrivate}", page, "POST", "access-control-request-headers: authorization"),
    {
      status: [200, 204],
      fields: {
        ...allowed,
        "access-control-allow-methods": /\bPOST\b/,
        "access-control-allow-headers": "authorization"
      }
    }
  ),
  fetch(
    "3.3.1",
    "a page may read that a credential is missing",
    ["corsPrivate"],
    post("{corsPrivate}", "{}", [from(page), "content-type: application/json"]),
    {
      status: 401,
      fields: { ...allowed, "www-authenticate": "Bearer" }
    }
  ),
  fetch("3.3.1", "a page may read a mistake of the server", ["corsFails"], ask("GET", "{corsFails}", [from(page)]), {
    status: 500,
    fields: allowed
  }),
  fetch(
    "3.3.1",
    "a page may read that its body was wrong",
    ["corsPrivate"],
    post("{corsPrivate}", "7", [from(page), "content-type: application/json", "authorization: Bearer {token}"]),
    {
      status: 422,
      fields: allowed
    }
  ),
  fetch(
    "3.3.2",
    "OPTIONS without a method asked for is no preflight",
    ["cors"],
    ask("OPTIONS", "{cors}", [from(page)]),
    {
      status: [200, 204],
      fields: { "access-control-allow-methods": false, allow: /GET/ }
    }
  ),
  fetch(
    "3.3.2",
    "a preflight for a method that is not there allows nothing",
    ["cors"],
    preflight("{cors}", page, "DELETE"),
    {
      status: [200, 204, 405],
      fields: { "access-control-allow-origin": false }
    }
  ),
  of("Private Network Access")(
    "3.2",
    "a page of a public network is let in where the server says so",
    ["cors"],
    preflight("{cors}", page, "GET", "access-control-request-private-network: true"),
    {
      status: [200, 204],
      fields: { "access-control-allow-private-network": "true" }
    }
  ),
  of("Private Network Access")(
    "3.2",
    "a page of a public network is not let in by default",
    ["corsPrivate"],
    preflight("{corsPrivate}", page, "POST", "access-control-request-private-network: true"),
    {
      status: [200, 204],
      fields: { "access-control-allow-private-network": false }
    }
  )
]
