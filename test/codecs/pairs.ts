/** Pairs of schemas, an old and a new one, and the verdict: `b` the new reads the old, `f` the old reads the new. */
export interface Pair {
  readonly name: string
  readonly old: string
  readonly now: string
  readonly verdict: "bf" | "b" | "f" | ""
}

const text = (schema: unknown): string => JSON.stringify(schema)

const fieldsOf = (fields: ReadonlyArray<object>) => fields.map((field, index) => ({ name: "abcdef"[index], ...field }))

const record = (...fields: ReadonlyArray<object>) => ({ type: "record", name: "R", fields: fieldsOf(fields) })

const inField = (type: unknown) => record({ type })

const suit = (symbols: ReadonlyArray<string>, fallback?: string) => ({
  type: "enum",
  name: "E",
  symbols,
  ...(fallback === undefined ? {} : { default: fallback })
})

const fixed = (size: number, name = "F") => ({ type: "fixed", name, size })

const list = (field: string, value: unknown) => ({
  type: "record",
  name: "Node",
  fields: [{ name: "next", type: ["null", "Node"], default: null }, { name: field, type: value }]
})

const table: ReadonlyArray<readonly [string, unknown, unknown, Pair["verdict"]]> = [
  ["the same primitive", "int", "int", "bf"],
  ["int to long", inField("int"), inField("long"), "b"],
  ["int to float", inField("int"), inField("float"), "b"],
  ["int to double", inField("int"), inField("double"), "b"],
  ["long to float", inField("long"), inField("float"), "b"],
  ["long to double", inField("long"), inField("double"), "b"],
  ["float to double", inField("float"), inField("double"), "b"],
  ["string and bytes", inField("string"), inField("bytes"), "bf"],
  ["int and string", inField("int"), inField("string"), ""],
  ["boolean and int", inField("boolean"), inField("int"), ""],
  ["bytes and fixed", inField("bytes"), inField(fixed(4)), ""],
  ["null and string", inField("null"), inField("string"), ""],
  ["double to long", inField("double"), inField("long"), "f"],
  ["a new field with a default", record({ type: "int" }), record({ type: "int" }, { type: "int", default: 1 }), "bf"],
  ["a new field without a default", record({ type: "int" }), record({ type: "int" }, { type: "int" }), "f"],
  [
    "a removed field with a default",
    record({ type: "int" }, { type: "int", default: 1 }),
    record({ type: "int" }),
    "bf"
  ],
  ["a removed field without a default", record({ type: "int" }, { type: "int" }), record({ type: "int" }), "b"],
  ["a renamed field", record({ name: "x", type: "int" }), record({ name: "y", type: "int" }), ""],
  [
    "a renamed field with an alias",
    record({ name: "x", type: "int" }),
    record({ name: "y", aliases: ["x"], type: "int" }),
    "b"
  ],
  [
    "a renamed field with an alias and a default on both sides",
    record({ name: "x", type: "int", default: 1 }),
    record({ name: "y", aliases: ["x"], type: "int", default: 1 }),
    "bf"
  ],
  ["fields in another order", record({ type: "int" }, { type: "string" }), {
    type: "record",
    name: "R",
    fields: [{ name: "b", type: "string" }, { name: "a", type: "int" }]
  }, "bf"],
  ["a field becomes optional", inField("string"), record({ type: ["null", "string"] }), "b"],
  ["a union loses a branch", inField(["null", "string", "int"]), inField(["null", "string"]), "f"],
  ["a union gains a branch", inField(["null", "string"]), inField(["null", "string", "int"]), "b"],
  ["a union in another order", inField(["null", "string"]), inField(["string", "null"]), "bf"],
  ["a union becomes one of its branches", inField(["string"]), inField("string"), "bf"],
  ["branches of a union are promoted", inField(["null", "int"]), inField(["null", "long"]), "b"],
  ["a union of promotions into one type", inField(["int", "float"]), inField("double"), "b"],
  ["a new enum symbol", inField(suit(["A"])), inField(suit(["A", "B"])), "b"],
  ["a new enum symbol, with defaults", inField(suit(["A"], "A")), inField(suit(["A", "B"], "A")), "bf"],
  ["a removed enum symbol", inField(suit(["A", "B"])), inField(suit(["A"])), "f"],
  ["a removed enum symbol, and a default", inField(suit(["A", "B"])), inField(suit(["A"], "A")), "bf"],
  ["enum symbols in another order", inField(suit(["A", "B"])), inField(suit(["B", "A"])), "bf"],
  ["another enum name", inField(suit(["A"])), inField({ ...suit(["A"]), name: "G" }), ""],
  [
    "another enum name with an alias",
    inField(suit(["A"])),
    inField({ ...suit(["A"]), name: "G", aliases: ["E"] }),
    "b"
  ],
  ["another fixed size", inField(fixed(4)), inField(fixed(8)), ""],
  ["another fixed name", inField(fixed(4)), inField(fixed(4, "G")), ""],
  ["the same fixed", inField(fixed(4)), inField(fixed(4)), "bf"],
  [
    "items of an array are promoted",
    inField({ type: "array", items: "int" }),
    inField({ type: "array", items: "long" }),
    "b"
  ],
  ["an array and a map", inField({ type: "array", items: "int" }), inField({ type: "map", values: "int" }), ""],
  [
    "values of a map change type",
    inField({ type: "map", values: "int" }),
    inField({ type: "map", values: "string" }),
    ""
  ],
  [
    "a field deep inside without a default",
    inField({ type: "array", items: { type: "map", values: { ...record({ type: "int" }), name: "I" } } }),
    inField({
      type: "array",
      items: { type: "map", values: { ...record({ type: "int" }, { type: "int" }), name: "I" } }
    }),
    "f"
  ],
  [
    "another record name inside",
    inField({ ...record({ type: "int" }), name: "I" }),
    inField({
      ...record({ type: "int" }),
      name: "J"
    }),
    ""
  ],
  [
    "another record name inside with an alias",
    inField({ ...record({ type: "int" }), name: "I" }),
    inField({
      ...record({ type: "int" }),
      name: "J",
      aliases: ["I"]
    }),
    "b"
  ],
  ["a record that holds itself, promoted", list("value", "int"), list("value", "long"), "b"],
  ["a record that holds itself, the same", list("value", "int"), list("value", "int"), "bf"],
  [
    "a logical type above the same type",
    inField("long"),
    inField({ type: "long", logicalType: "timestamp-millis" }),
    "bf"
  ],
  ["another namespace", { ...record({ type: "int" }), namespace: "old" }, {
    ...record({ type: "int" }),
    namespace: "now"
  }, "bf"],
  ["another record name at the root", record({ type: "int" }), { ...record({ type: "int" }), name: "S" }, ""],
  [
    "records of a union, one of which changes",
    inField([{ ...record({ type: "int" }), name: "U" }, { ...record({ type: "int" }), name: "V" }]),
    inField([{ ...record({ type: "long" }), name: "U" }, { ...record({ type: "int" }), name: "V" }]),
    "b"
  ],
  ["a doc and a default of a field", record({ type: "int" }), record({ type: "int", doc: "d", default: 4 }), "bf"]
]

export const pairs: ReadonlyArray<Pair> = table.map(([name, old, now, verdict]) => ({
  name,
  old: text(old),
  now: text(now),
  verdict
}))
