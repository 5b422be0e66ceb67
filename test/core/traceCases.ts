/**
 * What the W3C's harness of Trace Context asks, as data: header fields that come in, and what goes on. One entry for each of
 * its 40 functions, and one for the random flag of Level 2.
 */
const id = "12345678901234567890123456789012"
const parent = "1234567890123456"
const good = `00-${id}-${parent}-01`
const unsampled = `00-${id}-${parent}-00`

/** Header fields as they are sent: names in any case, and twice. */
export type Fields = ReadonlyArray<readonly [name: string, value: string]>

/** What goes on of the trace, and the members of `tracestate` that do; undefined where none may. */
export interface Expected {
  readonly trace: "same" | "new"
  readonly state?: string | undefined
}

export const traceId = id
export const parentId = parent

const traced = (value: string): Fields => [["traceparent", value]]
const stated = (...states: ReadonlyArray<string>): Fields => [
  ["traceparent", unsampled],
  ...states.map((state) => ["tracestate", state] as const)
]
const same: Expected = { trace: "same" }
const fresh: Expected = { trace: "new" }
const keeps = (state: string): Expected => ({ trace: "same", state })

const each = (values: ReadonlyArray<string>, expected: Expected) =>
  values.map((value) => [traced(value), expected] as const)
const drops = (...states: ReadonlyArray<string>) => states.map((state) => [stated(state), same] as const)

const members = (from: number, to: number): string =>
  Array.from({ length: to - from + 1 }, (_, i) => String(from + i).padStart(2, "0")).map((n) => `bar${n}=${n}`).join(
    ","
  )

const key = `${"abcdefghijklmnopqrstuvwxyz"}0123456789_-*/`
const value = Array.from({ length: 0x7f - 0x20 }, (_, i) => String.fromCharCode(0x20 + i))
  .filter((char) => char !== "," && char !== "=").join("")

/** By the name of the harness's function. */
export const cases: Readonly<Record<string, ReadonlyArray<readonly [Fields, Expected]>>> = {
  both_traceparent_and_tracestate_missing: [[[], fresh]],
  traceparent_included_tracestate_missing: each([good], same),
  traceparent_duplicated: [[
    [["traceparent", `00-${id.slice(0, -1)}1-${parent}-01`], ["traceparent", good]],
    fresh
  ]],
  traceparent_header_name: [[[["trace-parent", good]], fresh], [[["trace.parent", good]], fresh]],
  traceparent_header_name_valid_casing: ["TraceParent", "TrAcEpArEnT", "TRACEPARENT"].map((name) => [
    [[name, good]],
    same
  ]),
  traceparent_version_0x00: each([`${good}.`, `${good}-what-the-future-will-be-like`], fresh),
  traceparent_version_0xcc: [
    ...each([`cc-${id}-${parent}-01`, `cc-${id}-${parent}-01-what-the-future-will-be-like`], same),
    ...each([`cc-${id}-${parent}-01.what-the-future-will-be-like`], fresh)
  ],
  traceparent_version_0xff: each([`ff-${id}-${parent}-01`], fresh),
  traceparent_version_illegal_characters: each([`.0-${id}-${parent}-01`, `0.-${id}-${parent}-01`], fresh),
  traceparent_version_too_long: each([`000-${id}-${parent}-01`, `0000-${id}-${parent}-01`], fresh),
  traceparent_version_too_short: each([`0-${id}-${parent}-01`], fresh),
  traceparent_trace_id_all_zero: each([`00-${"0".repeat(32)}-${parent}-01`], fresh),
  traceparent_trace_id_illegal_characters: each(
    [`00-.${id.slice(1)}-${parent}-01`, `00-${id.slice(0, -1)}.-${parent}-01`],
    fresh
  ),
  traceparent_trace_id_too_long: each([`00-${id}3-${parent}-01`], fresh),
  traceparent_trace_id_too_short: each([`00-${id.slice(1)}-${parent}-01`], fresh),
  traceparent_parent_id_all_zero: each([`00-${id}-${"0".repeat(16)}-01`], fresh),
  traceparent_parent_id_illegal_characters: each(
    [`00-${id}-.${parent.slice(1)}-01`, `00-${id}-${parent.slice(0, -1)}.-01`],
    fresh
  ),
  traceparent_parent_id_too_long: each([`00-${id}-${parent}7-01`], fresh),
  traceparent_parent_id_too_short: each([`00-${id}-${parent.slice(1)}-01`], fresh),
  traceparent_trace_flags_illegal_characters: each([`00-${id}-${parent}-.0`, `00-${id}-${parent}-0.`], fresh),
  traceparent_trace_flags_too_long: each([`00-${id}-${parent}-001`], fresh),
  traceparent_trace_flags_too_short: each([`00-${id}-${parent}-1`], fresh),
  traceparent_ows_handling: each([` ${good}`, `\t${good}`, `${good} `, `${good}\t`, `\t ${good} \t`], same),
  tracestate_included_traceparent_missing: [[[["tracestate", "foo=1"]], fresh], [
    [["tracestate", "foo=1,bar=2"]],
    fresh
  ]],
  tracestate_included_traceparent_included: [[stated("foo=1,bar=2"), keeps("foo=1,bar=2")]],
  tracestate_header_name: ["trace-state", "trace.state"].map((
    name
  ) => [[["traceparent", unsampled], [name, "foo=1"]], same]),
  tracestate_header_name_valid_casing: ["TraceState", "TrAcEsTaTe", "TRACESTATE"].map((name) => [
    [["traceparent", unsampled], [name, "foo=1"]],
    keeps("foo=1")
  ]),
  tracestate_empty_header: [
    [stated(""), same],
    [stated("foo=1", ""), keeps("foo=1")],
    [stated("", "foo=1"), keeps("foo=1")]
  ],
  tracestate_multiple_headers_different_keys: [[
    stated("foo=1,bar=2", "rojo=1,congo=2", "baz=3"),
    keeps("foo=1,bar=2,rojo=1,congo=2,baz=3")
  ]],
  tracestate_duplicated_keys: [
    ...drops("foo=1,foo=1", "foo=1,foo=2"),
    [stated("foo=1", "foo=1"), same],
    [stated("foo=1", "foo=2"), same]
  ],
  tracestate_all_allowed_characters: [`${key}=${value}`, `${key}@a-z0-9_-*/=${value}`].map((state) => [
    stated(state),
    keeps(state)
  ]),
  tracestate_ows_handling: [
    ...["foo=1 \t , \t bar=2, \t baz=3", "foo=1\t \t,\t \tbar=2,\t \tbaz=3"].map((state) =>
      [stated(state), keeps("foo=1,bar=2,baz=3")] as const
    ),
    ...[" foo=1", "\tfoo=1", "foo=1 ", "foo=1\t", "\t foo=1 \t"].map((state) =>
      [stated(state), keeps("foo=1")] as const
    )
  ],
  tracestate_key_illegal_characters: drops("foo =1", "FOO=1", "foo.bar=1"),
  tracestate_key_illegal_vendor_format: drops(
    "foo@=1,bar=2",
    "@foo=1,bar=2",
    "foo@@bar=1,bar=2",
    "foo@bar@baz=1,bar=2"
  ),
  tracestate_member_count_limit: [
    [stated(members(1, 10), members(11, 20), members(21, 30), members(31, 32)), keeps(members(1, 32))],
    [stated(members(1, 10), members(11, 20), members(21, 30), members(31, 33)), same]
  ],
  tracestate_key_length_limit: [
    [stated("foo=1", `${"z".repeat(256)}=1`), keeps(`foo=1,${"z".repeat(256)}=1`)],
    [stated("foo=1", `${"z".repeat(257)}=1`), same],
    [
      stated("foo=1", `${"t".repeat(241)}@${"v".repeat(14)}=1`),
      keeps(`foo=1,${"t".repeat(241)}@${"v".repeat(14)}=1`)
    ],
    [stated("foo=1", `${"t".repeat(242)}@v=1`), same],
    [stated("foo=1", `t@${"v".repeat(15)}=1`), same]
  ],
  tracestate_value_illegal_characters: drops("foo=bar=baz", "foo=,bar=3"),
  multiple_requests_with_valid_traceparent: each([good, good, good], same),
  multiple_requests_without_traceparent: [[[], fresh], [[], fresh], [[], fresh]],
  multiple_requests_with_illegal_traceparent: each(
    [1, 2, 3].map(() => `00-${"0".repeat(32)}-${parent}-01`),
    fresh
  ),
  // Level 2: the flag that the trace id is random goes on as it came
  traceparent_random_flag: each([`00-${id}-${parent}-03`, `00-${id}-${parent}-02`], same)
}
