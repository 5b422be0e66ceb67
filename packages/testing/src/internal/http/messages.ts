/** RFC 9112: the framing of messages, and messages that must be refused so that no second request hides in a first. */
import { ask, type Case, keep, of, post } from "./Case.ts"

const rfc = of("RFC 9112")

const ok = { status: 200 }
const refused = { status: 400 }
const raw = (...lines: ReadonlyArray<string>): string => lines.join("\r\n")

/** The cases. */
export const cases: ReadonlyArray<Case> = [
  rfc("2.1", "a request in several packets is one", ["hello"], [
    "GET {hello}",
    { millis: 20 },
    " HTTP/1.1\r\nho",
    { millis: 20 },
    "st: {host}\r\nconnection: close\r\n\r\n"
  ], ok),
  rfc("2.2", "an empty line before a request is ignored", ["hello"], `\r\n${ask("GET", "{hello}")}`, ok),
  rfc(
    "2.2",
    "a blank before the first field is refused",
    ["hello"],
    raw("GET {hello} HTTP/1.1", " host: {host}", "", ""),
    refused,
    {
      closes: true
    }
  ),
  rfc(
    "3",
    "a request line without a version is refused",
    ["hello"],
    raw("GET {hello}", "host: {host}", "", ""),
    refused,
    { closes: true }
  ),
  rfc(
    "3",
    "a version that is none is refused",
    ["hello"],
    raw("GET {hello} HTTQ/1.1", "host: {host}", "", ""),
    refused,
    { closes: true }
  ),
  rfc(
    "2.3",
    "a major version that is not served is refused",
    ["hello"],
    raw("GET {hello} HTTP/3.0", "host: {host}", "", ""),
    {
      status: [400, 505]
    },
    { closes: true }
  ),
  rfc(
    "3.1",
    "a method that is no token is refused",
    ["hello"],
    raw("G(T {hello} HTTP/1.1", "host: {host}", "", ""),
    refused,
    { closes: true }
  ),
  rfc("3.1", "methods are case-sensitive", ["hello"], raw("get {hello} HTTP/1.1", "host: {host}", "", ""), {
    status: [400, 405, 501]
  }),
  rfc("3.2", "a request without a host is refused", ["hello"], raw("GET {hello} HTTP/1.1", "", ""), refused, {
    closes: true
  }),
  rfc(
    "3.2",
    "two hosts are refused",
    ["hello"],
    raw("GET {hello} HTTP/1.1", "host: a", "host: b", "connection: close", "", ""),
    refused
  ),
  ...([
    ["a path", "x/public"],
    ["a query", "x?role=admin&a="],
    ["a fragment", "x#y"],
    ["a user", "me@x"],
    ["a blank", "x y"],
    ["a port that is no number", "x:80a"],
    ["two ports", "x:80:81"],
    ["a bracket alone", "[::1"],
    ["a scheme", "http://x"]
  ] as const).map(([what, host]) =>
    rfc(
      "3.2",
      `a host with ${what} is refused`,
      ["hello"],
      raw("GET {hello} HTTP/1.1", `host: ${host}`, "connection: close", "", ""),
      refused
    )
  ),
  ...(["", "x", "x.example:", "x_y.example:80", "[::1]:80", "%41.example"] as const).map((host) =>
    rfc(
      "3.2",
      `the host ${JSON.stringify(host)} is one`,
      ["hello"],
      raw("GET {hello} HTTP/1.1", `host: ${host}`, "connection: close", "", ""),
      ok
    )
  ),
  rfc("3.2.1", "the query is no part of the path", ["item"], ask("GET", "{item}/7?a=1&b=2"), {
    status: 200,
    json: { id: "7", query: "a=1&b=2" }
  }),
  rfc("3.2.2", "the absolute form is served", ["hello"], ask("GET", "http://{host}{hello}"), ok),
  rfc(
    "3.2.2",
    "the host of the absolute form replaces the field",
    ["item"],
    raw("GET http://other.example{item}/7 HTTP/1.1", "host: {host}", "connection: close", "", ""),
    {
      status: 200,
      json: { host: "other.example" }
    }
  ),
  rfc(
    "3.2.2",
    "a guard sees the path by which the route was found",
    ["item"],
    ask("GET", "http://{host}/public/..{item}/7"),
    {
      status: [200, 404],
      body: /^(?!.*public)/
    }
  ),
  rfc("3.2.4", "the asterisk form asks about the server", [], ask("OPTIONS", "*"), { status: [200, 204], body: "" }),
  rfc("5", "names of fields have any case", ["echo"], [
    raw(
      "POST {echo} HTTP/1.1",
      "HOST: {host}",
      "Content-TYPE: application/json",
      "CONTENT-length: 2",
      "Connection: close",
      "",
      ""
    ),
    "{}"
  ], { status: 200, body: "{}" }),
  rfc(
    "5.1",
    "a blank before the colon is refused",
    ["hello"],
    raw("GET {hello} HTTP/1.1", "host : {host}", "", ""),
    refused,
    { closes: true }
  ),
  rfc("5.1", "blanks around a value are no part of it", ["echo"], [
    raw(
      "POST {echo} HTTP/1.1",
      "host: {host}",
      "content-type:  \t application/json \t",
      "content-length:2",
      "connection: close",
      "",
      ""
    ),
    "{}"
  ], ok),
  rfc(
    "5.2",
    "a folded field is refused, or its fold is a blank",
    ["hello"],
    raw("GET {hello} HTTP/1.1", "host: {host}", "x-a: 1", " 2", "connection: close", "", ""),
    {
      status: [200, 400]
    }
  ),
  rfc(
    "5.5",
    "a control character in a field is refused",
    ["hello"],
    raw("GET {hello} HTTP/1.1", "host: {host}", "x-a: a\u0000b", "", ""),
    refused,
    {
      closes: true
    }
  ),
  rfc(
    "2.2",
    "a bare CR in a field is refused",
    ["hello"],
    raw("GET {hello} HTTP/1.1", "host: {host}", "x-a: a\rb", "", ""),
    refused,
    { closes: true }
  ),
  rfc("3", "a target that is too long is refused", ["hello"], ask("GET", `{hello}?${"a".repeat(70_000)}`), {
    status: [414, 431]
  }, { closes: true }),
  rfc("5", "fields that are too long are refused", ["hello"], ask("GET", "{hello}", [`x-a: ${"a".repeat(70_000)}`]), {
    status: 431
  }, { closes: true }),
  rfc(
    "6.1",
    "a length and chunks at once are refused",
    ["echo"],
    [
      keep("POST", "{echo}", ["content-type: application/json", "content-length: 2", "transfer-encoding: chunked"]),
      "0\r\n\r\n"
    ],
    refused,
    { closes: true }
  ),
  rfc(
    "6.1",
    "a transfer coding that is unknown is refused",
    ["echo"],
    keep("POST", "{echo}", ["transfer-encoding: cow"]),
    { status: [400, 501] },
    { closes: true }
  ),
  rfc(
    "6.1",
    "a last coding that is not chunked is refused",
    ["echo"],
    keep("POST", "{echo}", ["transfer-encoding: chunked, gzip"]),
    refused,
    { closes: true }
  ),
  rfc(
    "6.2",
    "two lengths are refused",
    ["echo"],
    keep("POST", "{echo}", ["content-length: 2", "content-length: 3"]),
    refused,
    { closes: true }
  ),
  rfc("6.3", "a list of lengths is refused", ["echo"], keep("POST", "{echo}", ["content-length: 2, 3"]), refused, {
    closes: true
  }),
  rfc("6.2", "a length with a sign is refused", ["echo"], keep("POST", "{echo}", ["content-length: +2"]), refused, {
    closes: true
  }),
  rfc("6.2", "a negative length is refused", ["echo"], keep("POST", "{echo}", ["content-length: -2"]), refused, {
    closes: true
  }),
  rfc("6.2", "a length in hexadecimal is refused", ["echo"], keep("POST", "{echo}", ["content-length: 0x2"]), refused, {
    closes: true
  }),
  rfc("7.1", "a body in chunks is whole", ["echo"], [
    ask("POST", "{echo}", ["content-type: application/json", "transfer-encoding: chunked"]),
    "1\r\n{\r\n",
    { millis: 20 },
    "6\r\n\"a\":1}\r\n0\r\n\r\n"
  ], { status: 200, body: "{\"a\":1}" }),
  rfc("7.1", "sizes of chunks are hexadecimal in any case", ["echo"], [
    ask("POST", "{echo}", ["content-type: application/json", "transfer-encoding: Chunked"]),
    "A\r\n[1,2,3,45]\r\n0\r\n\r\n"
  ], { status: 200, body: "[1,2,3,45]" }),
  rfc("7.1.1", "extensions of chunks are ignored", ["echo"], [
    ask("POST", "{echo}", ["content-type: application/json", "transfer-encoding: chunked"]),
    "2;a=b;c\r\n{}\r\n0\r\n\r\n"
  ], { status: 200, body: "{}" }),
  rfc("7.1.2", "trailers are no fields of the head", ["echo"], [
    ask("POST", "{echo}", ["content-type: application/json", "transfer-encoding: chunked", "trailer: authorization"]),
    "2\r\n{}\r\n0\r\nauthorization: Bearer x\r\n\r\n"
  ], { status: 200, body: "{}" }),
  rfc(
    "7.1",
    "a size of a chunk that is none is refused",
    ["echo"],
    [
      keep("POST", "{echo}", ["content-type: application/json", "transfer-encoding: chunked"]),
      "xx\r\n{}\r\n0\r\n\r\n"
    ],
    refused,
    { closes: true }
  ),
  rfc(
    "7.1",
    "a chunk that is longer than its size is refused",
    ["echo"],
    [
      keep("POST", "{echo}", ["content-type: application/json", "transfer-encoding: chunked"]),
      "1\r\n{}\r\n0\r\n\r\n"
    ],
    refused,
    { closes: true }
  ),
  rfc("9.3", "a connection goes on", ["hello"], [keep("GET", "{hello}"), { answers: 1 }, ask("GET", "{hello}")], [
    ok,
    ok
  ]),
  rfc("9.3.2", "pipelined requests are answered in order", ["hello", "item", "slow"], [
    keep("GET", "{slow}") + keep("GET", "{item}/1") + keep("GET", "{item}/2") + ask("GET", "{hello}")
  ], [ok, { status: 200, json: { id: "1" } }, { status: 200, json: { id: "2" } }, ok]),
  rfc("9.3", "a connection goes on after a body that no route read", ["unread", "hello"], [
    keep("POST", "{unread}", ["content-length: 5"]),
    "12345",
    ask("GET", "{hello}")
  ], [ok, ok]),
  rfc("9.3", "a connection goes on after a body in chunks that no route read", ["unread", "hello"], [
    keep("POST", "{unread}", ["transfer-encoding: chunked"]),
    "5\r\n12345\r\n0\r\n\r\n",
    ask("GET", "{hello}")
  ], [ok, ok]),
  rfc(
    "9.3",
    "what is left of a refused body is no request",
    ["echo"],
    [
      keep("POST", "{echo}", ["content-type: application/json", "content-length: 400000"]),
      keep("GET", "{hello}").repeat(50)
    ],
    { status: 413 },
    { closes: true }
  ),
  rfc("9.3", "HTTP/1.0 ends with its answer", ["hello"], raw("GET {hello} HTTP/1.0", "", ""), ok, { closes: true }),
  rfc(
    "9.3",
    "HTTP/1.0 goes on where it asks to",
    ["hello"],
    [
      raw("GET {hello} HTTP/1.0", "connection: keep-alive", "", ""),
      { answers: 1 },
      raw("GET {hello} HTTP/1.0", "", "")
    ],
    [{ status: 200, fields: { connection: /keep-alive/i } }, ok],
    { closes: true }
  ),
  rfc("9.6", "a connection ends where the client asks for it", ["hello"], ask("GET", "{hello}"), {
    status: 200,
    fields: { connection: "close" }
  }, { closes: true }),
  rfc("6.3", "an answer that is a stream has an end", ["stream"], ask("GET", "{stream}"), {
    status: 200,
    body: "one two three"
  }),
  rfc(
    "6.3",
    "the answers around a stream stay apart",
    ["stream", "hello"],
    keep("GET", "{stream}") + ask("GET", "{hello}"),
    [{ status: 200, body: "one two three" }, ok]
  ),
  rfc(
    "8",
    "a body that ends too early is not handled",
    ["echo", "hello"],
    [
      keep("POST", "{echo}", ["content-type: application/json", "content-length: 10"]),
      "{}"
    ],
    [],
    { closes: false, next: [{ send: [ask("GET", "{hello}")], expect: [ok] }] }
  ),
  rfc("9.3", "a body is read with the request that it belongs to", ["echo"], [
    ...post("{echo}", "{\"first\":1}").map((part) =>
      typeof part === "string" ? part.replace("connection: close\r\n", "") : part
    ),
    ...post("{echo}", "{\"second\":2}")
  ], [{ status: 200, body: "{\"first\":1}" }, { status: 200, body: "{\"second\":2}" }])
]
