/** RFC 9110: methods, statuses, content, and answers that precede any work. */
import { deflateSync, gzipSync } from "node:zlib"
import { ask, type Case, keep, of, post } from "./Case.ts"

const rfc = of("RFC 9110")

const json = ["content-type: application/json"]
const problem = { "content-type": "application/problem+json" }
const allow = (methods: string) => ({ ...problem, allow: methods })
const coded = (coding: string) => [...json, `content-encoding: ${coding}`]
const continues = (fields: ReadonlyArray<string>) => [...fields, "expect: 100-continue"]

/** Bytes of a million blanks in a JSON text, which compress to about a thousand. */
const bomb = gzipSync(`[${" ".repeat(1_000_000)}]`)

/** The cases. */
export const cases: ReadonlyArray<Case> = [
  rfc("6.6.1", "an answer says when it was made", ["hello"], ask("GET", "{hello}"), {
    status: 200,
    fields: { date: /^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/ }
  }),
  rfc("8.3", "JSON says that it is JSON", ["hello"], ask("GET", "{hello}"), {
    status: 200,
    fields: { "content-type": /^application\/json/ }
  }),
  rfc(
    "8.3.1",
    "a media type has any case, and parameters",
    ["echo"],
    post("{echo}", "{}", ["content-type: APPLICATION/Json; Charset=UTF-8"]),
    { status: 200 }
  ),
  rfc("8.6", "a length is that of the body", ["hello"], ask("GET", "{hello}"), {
    status: 200,
    fields: { "content-length": /^\d+$/ }
  }),
  rfc("8.6", "an answer without content has no length", ["empty"], ask("DELETE", "{empty}"), {
    status: 204,
    fields: { "content-length": false, "transfer-encoding": false }
  }),
  rfc(
    "8.6",
    "an answer without content ends, and the next one follows",
    ["empty", "hello"],
    keep("DELETE", "{empty}") + ask("GET", "{hello}"),
    [{ status: 204 }, { status: 200 }]
  ),
  rfc("4.2.2", "escapes of a path are decoded in parameters", ["item"], ask("GET", "{item}/a%2Fb%20c"), {
    status: 200,
    json: { id: "a/b c" }
  }),
  rfc("4.1", "a long segment of a path is served", ["item"], ask("GET", `{item}/${"a".repeat(2_000)}`), {
    status: 200,
    json: { id: "a".repeat(2_000) }
  }),
  rfc("4.1", "an escape that is none is refused", ["item"], ask("GET", "{item}/%zz"), { status: [400, 404] }),
  rfc("5.3", "two lines of a list are one list", ["trace"], ask("GET", "{trace}", ["baggage: a=1", "baggage: b=2"]), {
    status: 200,
    json: { baggage: "a=1,b=2" }
  }),
  rfc("9.1", "a method that the resource lacks is not allowed", ["item"], ask("PUT", "{item}/7"), {
    status: 405,
    fields: allow("GET, HEAD, OPTIONS")
  }),
  rfc("9.1", "a method that no resource has is not allowed", ["item"], ask("PROPFIND", "{item}/7"), {
    status: [405, 501]
  }),
  rfc("9.1", "a method without a resource is not found", [], ask("PUT", "/no-such-resource"), {
    status: 404,
    fields: { ...problem, allow: false }
  }),
  rfc("9.3.2", "HEAD has the fields of GET and no body", ["hello"], ask("HEAD", "{hello}"), {
    status: 200,
    head: true,
    fields: { "content-type": /json/, "content-length": /^\d+$/ }
  }),
  rfc("9.3.2", "HEAD of a stream has no body", ["stream"], ask("HEAD", "{stream}"), {
    status: 200,
    head: true,
    fields: { "content-type": /text/ }
  }),
  rfc(
    "9.3.2",
    "HEAD leaves the connection for the next request",
    ["hello", "stream"],
    keep("HEAD", "{stream}") + keep("HEAD", "{hello}") + ask("GET", "{hello}"),
    [
      { status: 200, head: true },
      { status: 200, head: true },
      { status: 200, body: /./ }
    ]
  ),
  rfc("9.3.2", "HEAD of nothing is not found, without a body", [], ask("HEAD", "/no-such-resource"), {
    status: 404,
    head: true,
    fields: problem
  }),
  rfc("9.3.2", "HEAD of a resource that only takes POST is not allowed", ["echo"], ask("HEAD", "{echo}"), {
    status: 405,
    head: true,
    fields: { allow: "OPTIONS, POST" }
  }),
  rfc("9.3.7", "OPTIONS says what a resource allows", ["item"], ask("OPTIONS", "{item}/7"), {
    status: [200, 204],
    body: "",
    fields: { allow: "GET, HEAD, OPTIONS" }
  }),
  rfc("9.3.7", "OPTIONS of nothing is not found", [], ask("OPTIONS", "/no-such-resource"), { status: 404 }),
  rfc("9.3.8", "TRACE does not show the request", ["hello"], ask("TRACE", "{hello}", ["authorization: Bearer seen"]), {
    status: [405, 501],
    body: /^(?!.*seen)/
  }),
  rfc("10.1.1", "the body is asked for when it is read", ["echo"], [
    ask("POST", "{echo}", continues([...json, "content-length: 2"])),
    { answers: 1 },
    "{}"
  ], [{ status: 100 }, { status: 200, body: "{}" }]),
  rfc(
    "10.1.1",
    "a body that is too long is not asked for",
    ["echo"],
    ask("POST", "{echo}", continues([...json, "content-length: 5000000"])),
    { status: 413 },
    { closes: true }
  ),
  rfc(
    "10.1.1",
    "a body of a wrong type is not asked for",
    ["echo"],
    ask("POST", "{echo}", continues(["content-type: text/plain", "content-length: 2"])),
    { status: 415 },
    { closes: true }
  ),
  rfc(
    "10.1.1",
    "a body without a credential is not asked for",
    ["admin"],
    ask("POST", "{admin}", continues([...json, "content-length: 2"])),
    { status: 401 },
    { closes: true }
  ),
  rfc(
    "10.1.1",
    "a body for no resource is not asked for",
    [],
    ask("POST", "/no-such-resource", continues([...json, "content-length: 2"])),
    { status: 404 },
    { closes: true }
  ),
  rfc(
    "10.1.1",
    "an expectation that is unknown fails",
    ["echo"],
    ask("POST", "{echo}", [...json, "content-length: 2", "expect: cookies"]),
    { status: 417 }
  ),
  rfc("10.2.3", "an answer that asks to wait says how long", ["busy"], ask("GET", "{busy}"), {
    status: 503,
    fields: { "retry-after": /^\d+$/ }
  }),
  rfc("15.5.1", "a body that is no JSON is malformed", ["echo"], post("{echo}", "{\"a\":"), {
    status: 400,
    fields: problem
  }),
  rfc("15.5.1", "a body that is no UTF-8 is malformed", ["echo"], post("{echo}", new Uint8Array([0x22, 0xff, 0x22])), {
    status: 400,
    fields: problem
  }),
  rfc("15.5.1", "an empty body is no JSON", ["echo"], post("{echo}", ""), { status: 400, fields: problem }),
  rfc(
    "15.5.1",
    "a long text with a mistake behind it is malformed",
    ["inflate"],
    post("{inflate}", `["${"a".repeat(900_000)}", x]`),
    { status: 400, fields: problem }
  ),
  rfc("15.5.5", "what is nowhere is not found", [], ask("GET", "/no-such-resource"), { status: 404, fields: problem }),
  rfc(
    "15.5.9",
    "a body that does not come in time is given up",
    ["slow"],
    [
      keep("POST", "{slow}", [...json, "content-length: 100"]),
      "{"
    ],
    { status: 408, fields: { ...problem, connection: "close" } },
    { closes: true }
  ),
  rfc(
    "15.5.9",
    "a body that drips is given up",
    ["slow"],
    [
      keep("POST", "{slow}", [...json, "content-length: 100"]),
      ..." {}       ".split("").flatMap((each) => [each, { millis: 50 }])
    ],
    { status: 408 },
    { closes: true }
  ),
  rfc("15.5.14", "a body that says that it is too long is refused", ["echo"], post("{echo}", "x".repeat(5_000)), {
    status: 413,
    fields: problem
  }),
  rfc("15.5.14", "a body in chunks that is too long is refused", ["echo"], [
    ask("POST", "{echo}", [...json, "transfer-encoding: chunked"]),
    `1388\r\n${"x".repeat(5_000)}\r\n0\r\n\r\n`
  ], { status: 413, fields: problem }),
  rfc(
    "15.5.16",
    "a body of another type is refused, and the type is said",
    ["echo"],
    post("{echo}", "a=1", ["content-type: application/x-www-form-urlencoded"]),
    {
      status: 415,
      fields: { ...problem, accept: /application\/json/ }
    }
  ),
  rfc("15.5.16", "a body without a type is refused", ["echo"], post("{echo}", "{}", []), { status: 415 }),
  rfc(
    "8.4",
    "a compressed body is refused where none is taken, and the coding is said",
    ["echo"],
    post("{echo}", gzipSync("{}"), coded("gzip")),
    {
      status: 415,
      fields: { ...problem, "accept-encoding": "identity" }
    }
  ),
  rfc("8.4", "the coding identity is none", ["echo"], post("{echo}", "{}", coded("identity")), { status: 200 }),
  rfc(
    "8.4.1",
    "gzip is inflated where the route says so",
    ["inflate"],
    post("{inflate}", gzipSync("{\"a\":1}"), coded("gzip")),
    { status: 200, body: "{\"a\":1}" }
  ),
  rfc("8.4.1", "names of codings have any case", ["inflate"], post("{inflate}", gzipSync("{}"), coded("GZip")), {
    status: 200,
    body: "{}"
  }),
  rfc("8.4.1", "x-gzip is gzip", ["inflate"], post("{inflate}", gzipSync("{}"), coded("x-gzip")), {
    status: 200,
    body: "{}"
  }),
  rfc(
    "8.4.1",
    "deflate is inflated where the route says so",
    ["inflate"],
    post("{inflate}", deflateSync("{}"), coded("deflate")),
    { status: 200, body: "{}" }
  ),
  rfc("8.4", "another coding is refused, and those are said", ["inflate"], post("{inflate}", "{}", coded("br")), {
    status: 415,
    fields: { "accept-encoding": "gzip, deflate" }
  }),
  rfc(
    "8.4",
    "a coding on a coding is refused",
    ["inflate"],
    post("{inflate}", gzipSync(gzipSync("{}")), coded("gzip, gzip")),
    { status: 415 }
  ),
  rfc(
    "15.5.14",
    "a small body that inflates to a large one is refused",
    ["inflate"],
    post("{inflate}", bomb, coded("gzip")),
    { status: 413 }
  ),
  rfc(
    "15.5.1",
    "a compressed body that is cut is malformed",
    ["inflate"],
    post("{inflate}", gzipSync("{\"a\":1}").subarray(0, 15), coded("gzip")),
    { status: 400 }
  ),
  rfc(
    "15.5.1",
    "a body that is not compressed as it says is malformed",
    ["inflate"],
    post("{inflate}", "{}", coded("gzip")),
    { status: 400 }
  ),
  rfc("15.5.21", "JSON of a wrong shape is unprocessable", ["echo"], post("{echo}", "7"), {
    status: 422,
    fields: problem
  }),
  rfc(
    "15.5.21",
    "JSON that is nested too deep is unprocessable",
    ["inflate"],
    post("{inflate}", "[".repeat(2_000) + "]".repeat(2_000)),
    { status: 422, fields: problem }
  ),
  rfc(
    "15.5.21",
    "JSON of too many values is unprocessable",
    ["inflate"],
    post("{inflate}", `[${"1,".repeat(200_000)}1]`),
    { status: 422, fields: problem }
  ),
  rfc("15.6.1", "a mistake of the server is one, and says nothing of itself", ["defect"], ask("GET", "{defect}"), {
    status: 500,
    fields: problem,
    body: /^(?!.*secret)/
  }),
  rfc("15.6.1", "an answer that cannot be sent is a mistake of the server", ["broken"], ask("GET", "{broken}"), {
    status: 500,
    fields: { ...problem, "x-broken": false, "x-admin": false }
  }),
  rfc("15.6.4", "a server that cannot now says so", ["busy"], ask("GET", "{busy}"), { status: 503, fields: problem })
]
