/**
 * The drafts of Idempotency-Key and of RateLimit fields, and W3C's Trace Context and Baggage.
 */
import { ask, type Case, type Exchange, of, type Part, post } from "./Case.ts"

const key = of("Idempotency-Key draft 07")
const limit = of("RateLimit fields draft 10")
const trace = of("Trace Context")
const baggage = of("Baggage")

const keyed = (value: string, body = "{\"amount\":1}"): ReadonlyArray<Part> =>
  post("{payments}", body, ["content-type: application/json", `idempotency-key: ${value}`])

const one = (send: ReadonlyArray<Part>, expect: Exchange["expect"][number]): Exchange => ({ send, expect: [expect] })

const problem = { "content-type": "application/problem+json" }
const replayed = { "idempotent-replayed": "true" }

const id = "0af7651916cd43dd8448eb211c80319c"
const span = "b7ad6b7169203331"
const parent = (text: string, ...more: ReadonlyArray<string>) =>
  ask("GET", "{trace}", [`traceparent: ${text}`, ...more])
const continued = { status: 200, json: { traceId: id } }
const begun = { status: 200, body: new RegExp(`^(?!.*${id})`) }

/** The cases. */
export const cases: ReadonlyArray<Case> = [
  key("2.7", "a request without a key is refused", ["payments"], post("{payments}", "{\"amount\":1}"), {
    status: 400,
    fields: problem,
    json: { type: /idempotency-key-missing$/ }
  }),
  key("2.6", "a key that comes again is answered as before", ["payments"], keyed("\"again\""), {
    status: 200,
    fields: { "idempotent-replayed": false }
  }, {
    next: [one(keyed("\"again\""), { status: 200, body: { same: 0 }, fields: replayed })]
  }),
  key("2.7", "a key that was used for another body is refused", ["payments"], keyed("\"other\""), { status: 200 }, {
    next: [
      one(keyed("\"other\"", "{\"amount\":2}"), {
        status: 422,
        fields: problem,
        json: { type: /idempotency-key-reused$/ }
      })
    ]
  }),
  key("2.2", "another key is another request", ["payments"], keyed("\"first\""), { status: 200 }, {
    next: [one(keyed("\"second\""), { status: 200, fields: { "idempotent-replayed": false } })]
  }),
  key("2.1", "a key is a string of structured fields, or bare", ["payments"], keyed("\"bare\""), { status: 200 }, {
    next: [one(keyed("bare"), { status: 200, body: { same: 0 }, fields: replayed })]
  }),
  key("2.1", "two keys are none", ["payments"], keyed("\"a\", \"b\""), { status: 400, fields: problem }),
  key("2.1", "an empty key is none", ["payments"], keyed("\"\""), { status: 400 }),
  key("2.1", "a key that is too long is none", ["payments"], keyed(`"${"k".repeat(300)}"`), { status: 400 }),
  key(
    "2.6",
    "a refusal of the handler is answered as before",
    ["payments"],
    keyed("\"declined\"", "{\"amount\":402}"),
    { status: 422 },
    {
      next: [one(keyed("\"declined\"", "{\"amount\":402}"), { status: 422, body: { same: 0 }, fields: replayed })]
    }
  ),
  key("2.6", "a body that could not be read takes no key", ["payments"], keyed("\"unread\"", "{"), { status: 400 }, {
    next: [one(keyed("\"unread\""), { status: 200, fields: { "idempotent-replayed": false } })]
  }),
  key("2.6", "a failure of the server gives its key back", ["payments"], keyed("\"fails\"", "{\"amount\":500}"), {
    status: 503
  }, {
    next: [one(keyed("\"fails\"", "{\"amount\":500}"), { status: 503, fields: { "idempotent-replayed": false } })]
  }),

  limit("3", "an answer says the policy and what is left", ["limited"], ask("GET", "{limited}?one"), {
    status: 200,
    fields: { "ratelimit-policy": /^"[\w-]+";q=\d+;w=\d+$/, ratelimit: /^"[\w-]+";r=\d+;t=\d+$/ }
  }),
  limit("5", "a refusal says when to come again", ["limited"], ask("GET", "{limited}?two"), { status: 200 }, {
    next: [
      one([ask("GET", "{limited}?two")], { status: 200 }),
      one([ask("GET", "{limited}?two")], {
        status: 429,
        fields: { ...problem, "retry-after": /^\d+$/, ratelimit: /;r=0;/ },
        json: { type: "https://iana.org/assignments/http-problem-types#quota-exceeded" }
      })
    ]
  }),
  limit("3", "a refusal names the policy that is over", ["limited"], ask("GET", "{limited}?three"), { status: 200 }, {
    next: [
      one([ask("GET", "{limited}?three")], { status: 200 }),
      one([ask("GET", "{limited}?three")], { status: 429, body: /"violated-policies":\["/ })
    ]
  }),

  trace("3.2.2", "a trace goes on", ["trace"], parent(`00-${id}-${span}-01`), continued),
  trace("3.2.2.5", "a trace that is not recorded goes on", ["trace"], parent(`00-${id}-${span}-00`), {
    status: 200,
    json: { traceId: id, sampled: false }
  }),
  trace("3.2.2", "flags that are not known are ignored", ["trace"], parent(`00-${id}-${span}-ff`), continued),
  trace(
    "4.3",
    "a version to come is read as far as it is known",
    ["trace"],
    parent(`cc-${id}-${span}-01-what-comes`),
    continued
  ),
  trace("3.2.2.2", "version 00 has nothing after its flags", ["trace"], parent(`00-${id}-${span}-01-more`), begun),
  trace("3.2.2.1", "version ff is none", ["trace"], parent(`ff-${id}-${span}-01`), begun),
  trace("3.2.2.3", "an id of zeros is none", ["trace"], parent(`00-${"0".repeat(32)}-${span}-01`), {
    status: 200,
    body: /^(?!.*0{32})/
  }),
  trace("3.2.2.4", "a parent of zeros is none", ["trace"], parent(`00-${id}-${"0".repeat(16)}-01`), begun),
  trace("3.2.2.3", "an id in capitals is none", ["trace"], parent(`00-${id.toUpperCase()}-${span}-01`), {
    status: 200,
    body: new RegExp(`^(?!.*${id}).*$`, "i")
  }),
  trace("3.2.2", "a text that is too short is none", ["trace"], parent(`00-${id}-${span}`), begun),
  trace(
    "3.2.1",
    "two parents are none",
    ["trace"],
    parent(`00-${id}-${span}-01`, `traceparent: 00-${"1".repeat(32)}-${span}-01`),
    begun
  ),
  trace("3.3", "the state of a trace goes on", ["trace"], parent(`00-${id}-${span}-01`, "tracestate: a=1,b=2"), {
    status: 200,
    json: { state: "a=1,b=2" }
  }),
  trace(
    "3.3.1",
    "lines of the state are one list",
    ["trace"],
    parent(`00-${id}-${span}-01`, "tracestate: a=1", "tracestate: b=2"),
    { status: 200, json: { state: "a=1,b=2" } }
  ),
  trace("3.4", "a state without a parent is none", ["trace"], ask("GET", "{trace}", ["tracestate: a=1"]), {
    status: 200,
    json: { state: "" }
  }),

  baggage("3.1", "baggage goes on", ["trace"], ask("GET", "{trace}", ["baggage: tenant=acme"]), {
    status: 200,
    json: { baggage: "tenant=acme" }
  }),
  baggage("3.2.1.3", "values are decoded", ["trace"], ask("GET", "{trace}", ["baggage: who=Am%C3%A9lie%20P"]), {
    status: 200,
    json: { who: "Amélie P" }
  }),
  baggage(
    "3.2.1",
    "blanks around a member are no part of it",
    ["trace"],
    ask("GET", "{trace}", ["baggage: who = ada , b=2"]),
    { status: 200, json: { who: "ada" } }
  ),
  baggage(
    "3.2.1.4",
    "properties are no part of a value",
    ["trace"],
    ask("GET", "{trace}", ["baggage: who=ada;kind=person"]),
    { status: 200, json: { who: "ada" } }
  ),
  baggage(
    "3.2.2",
    "a member that is none is left out",
    ["trace"],
    ask("GET", "{trace}", ["baggage: no member, who=ada"]),
    { status: 200, json: { who: "ada" } }
  )
]
