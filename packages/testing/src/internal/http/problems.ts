/**
 * RFC 9457: errors as problem details. RFC 6750: challenges. RFC 6265: cookies.
 */
import { ask, type Case, of, post } from "./Case.ts"

const problems = of("RFC 9457")
const bearer = of("RFC 6750")
const cookies = of("RFC 6265")

const type = "application/problem+json"
const token = (value: string) => [`authorization: Bearer ${value}`]

/** The cases. */
export const cases: ReadonlyArray<Case> = [
  problems("3", "a problem has its media type", ["fails"], ask("GET", "{fails}"), {
    status: 409,
    fields: { "content-type": type }
  }),
  problems("3.1.1", "the type is a URI, about:blank where the status says all", [], ask("GET", "/no-such-resource"), {
    status: 404,
    json: { type: "about:blank" }
  }),
  problems("3.1.2", "the status is that of the answer", ["fails"], ask("GET", "{fails}"), {
    status: 409,
    json: { status: 409 }
  }),
  problems("3.1.3", "a blank type has the phrase of its status", ["fails"], ask("GET", "{fails}"), {
    status: 409,
    json: { title: "Conflict" }
  }),
  problems("3.1.4", "the detail helps the client to mend its request", ["echo"], post("{echo}", "{\"a\":"), {
    status: 400,
    json: { detail: /line 1/ }
  }),
  problems("3.2", "an extension names the places that are wrong", ["echo"], post("{echo}", "7"), {
    status: 422,
    body: /"errors":\[\{"pointer":"#/
  }),
  problems("5", "a mistake of the server is told without its inside", ["defect"], ask("GET", "{defect}"), {
    status: 500,
    json: { detail: undefined, title: "Internal Server Error" }
  }),
  problems("4.2.1", "a blank type has no more meaning than its status", [], ask("PUT", "{item}/7"), {
    status: 405,
    json: { type: "about:blank", title: "Method Not Allowed" }
  }),
  problems("3", "a problem is not kept by caches", ["fails"], ask("GET", "{fails}"), {
    status: 409,
    fields: { "cache-control": "no-store" }
  }),
  problems("3", "HEAD of a problem has its fields and no body", ["fails"], ask("HEAD", "{fails}"), {
    status: 409,
    head: true,
    fields: { "content-type": type }
  }),
  problems("3", "a missing credential is a problem", ["private"], ask("GET", "{private}"), {
    status: 401,
    fields: { "content-type": type }
  }),
  problems("3", "a body that is too long is a problem", ["echo"], post("{echo}", "x".repeat(5_000)), {
    status: 413,
    json: { status: 413 }
  }),
  problems("3", "a body of another type is a problem", ["echo"], post("{echo}", "x", ["content-type: text/plain"]), {
    status: 415,
    json: { status: 415 }
  }),

  bearer("3", "a request without a credential is told the scheme, and no error", ["private"], ask("GET", "{private}"), {
    status: 401,
    fields: { "www-authenticate": "Bearer" }
  }),
  bearer("3.1", "a token that is not known is invalid", ["private"], ask("GET", "{private}", token("wrong")), {
    status: 401,
    fields: { "www-authenticate": /^Bearer .*error="invalid_token"/ }
  }),
  bearer("2.1", "a token that is known is taken", ["private"], ask("GET", "{private}", token("{token}")), {
    status: 200,
    json: { subject: "ada" }
  }),
  bearer("2.1", "the scheme has any case", ["private"], ask("GET", "{private}", ["authorization: bEARER {token}"]), {
    status: 200
  }),
  bearer(
    "2.1",
    "a credential of another scheme is none",
    ["private"],
    ask("GET", "{private}", ["authorization: Basic YTpi"]),
    { status: 401, fields: { "www-authenticate": "Bearer" } }
  ),
  bearer(
    "2.1",
    "a token without the scheme is none",
    ["private"],
    ask("GET", "{private}", ["authorization: {token}"]),
    { status: 401 }
  ),
  bearer("2.3", "a token in the query is none", ["private"], ask("GET", "{private}?access_token={token}"), {
    status: 401
  }),
  bearer(
    "3.1",
    "a token that lacks a scope is told which",
    ["admin"],
    post("{admin}", "{}", [...token("{token}"), "content-type: application/json"]),
    {
      status: 403,
      fields: { "www-authenticate": /^Bearer error="insufficient_scope", scope="admin"$/ }
    }
  ),
  bearer(
    "3",
    "the answer does not repeat the token",
    ["private"],
    ask("GET", "{private}", token("wrong-secret-token")),
    { status: 401, body: /^(?!.*wrong-secret-token)/ }
  ),
  bearer("5.2", "who may not ask learns nothing of the body", ["admin"], post("{admin}", "no JSON"), { status: 401 }),
  bearer(
    "5.2",
    "who lacks a scope learns nothing of the body",
    ["admin"],
    post("{admin}", "no JSON", [...token("{token}"), "content-type: application/json"]),
    { status: 403 }
  ),

  cookies("3", "cookies are not folded into one line", ["cookies"], ask("GET", "{cookies}"), {
    status: 200,
    fields: { "set-cookie": ["a=1; Path=/; HttpOnly", "b=2; Path=/", "c=3"] }
  }),
  cookies("3", "HEAD has the cookies of GET", ["cookies"], ask("HEAD", "{cookies}"), {
    status: 200,
    head: true,
    fields: { "set-cookie": ["a=1; Path=/; HttpOnly", "b=2; Path=/", "c=3"] }
  }),
  cookies("3", "a streamed answer has its cookies", ["cookies"], ask("GET", "{cookies}?stream=1"), {
    status: 200,
    fields: { "set-cookie": ["a=1; Path=/; HttpOnly", "b=2; Path=/", "c=3"] }
  }),
  cookies("3", "an answer without content has its cookies", ["cookies"], ask("GET", "{cookies}?status=204"), {
    status: 204,
    fields: { "set-cookie": ["a=1; Path=/; HttpOnly", "b=2; Path=/", "c=3"] }
  }),
  cookies("4.2.2", "a cookie of the client is read", ["item"], ask("GET", "{item}/7", ["cookie: a=1; b=2"]), {
    status: 200,
    json: { cookie: "a=1; b=2" }
  }),
  cookies(
    "5.4",
    "two lines of cookies are one list",
    ["item"],
    ask("GET", "{item}/7", ["cookie: a=1", "cookie: b=2"]),
    { status: 200, json: { cookie: "a=1; b=2" } }
  )
]
