/** Values of Avro schemas, and Avro's JSON encoding of them (specification 1.12.0), in which unions name their branch. */

type Json = { readonly [key: string]: unknown }
type Names = Map<string, Json>

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)

/** The schema of a name, or the schema itself; named types are kept. */
const resolved = (schema: unknown, names: Names): unknown => {
  if (typeof schema === "string") return names.get(schema) ?? { type: schema }
  if (isObject(schema) && typeof schema["name"] === "string") names.set(schema["name"], schema)
  return schema
}

const nameOf = (schema: unknown): string =>
  typeof schema === "string" ? schema : isObject(schema) ? String(schema["name"] ?? schema["type"]) : "union"

const fieldsOf = (schema: Json): ReadonlyArray<Json> => schema["fields"] as ReadonlyArray<Json>

const made = (schema: unknown, names: Names, turn: number, depth: number): unknown => {
  const type = resolved(schema, names)
  if (Array.isArray(type)) return made(depth > 3 ? type[0] : type[turn % type.length], names, turn, depth + 1)
  if (!isObject(type)) return undefined
  switch (type["type"]) {
    case "null":
      return null
    case "boolean":
      return turn % 2 === 0
    case "int":
    case "long":
      return [7, -64, 8000][turn % 3]
    case "float":
    case "double":
      return [0.5, -2, 1024][turn % 3]
    case "string":
      return ["a", "ä€", ""][turn % 3]
    case "bytes":
      // letters, so that a reader's string is one
      return new Uint8Array(Buffer.from(["b", "", "ccc"][turn % 3]!))
    case "fixed":
      return new Uint8Array(Number(type["size"])).fill(turn + 1)
    case "enum":
      return (type["symbols"] as ReadonlyArray<string>)[turn % (type["symbols"] as ReadonlyArray<string>).length]
    case "array":
      return Array.from({ length: turn % 3 }, () => made(type["items"], names, turn, depth + 1))
    case "map":
      return Object.fromEntries(
        Array.from({ length: turn % 3 }, (_, index) => [`k${index}`, made(type["values"], names, turn, depth + 1)])
      )
    case "record":
      return Object.fromEntries(
        fieldsOf(type).map((field) => [String(field["name"]), made(field["type"], names, turn, depth + 1)])
      )
    default:
      return made(type["type"], names, turn, depth)
  }
}

/** Three values of a schema: each branch of its unions, and lists of several lengths. */
export const samples = (schema: string): ReadonlyArray<unknown> =>
  [0, 1, 2].map((turn) => made(JSON.parse(schema), new Map(), turn, 0))

const fits = (schema: unknown, value: unknown, names: Names): boolean => {
  const type = resolved(schema, names)
  const kind = isObject(type) ? type["type"] : ""
  if (value === null) return kind === "null"
  if (typeof value === "string") return kind === "string" || kind === "enum"
  if (typeof value === "number") return ["int", "long", "float", "double"].includes(String(kind))
  return isObject(value) && kind === "record"
}

const encoded = (schema: unknown, value: unknown, names: Names): unknown => {
  const type = resolved(schema, names)
  if (Array.isArray(type)) {
    const chosen: unknown = type.find((each) => fits(each, value, names))
    return value === null ? null : { [nameOf(chosen)]: encoded(chosen, value, names) }
  }
  if (!isObject(type)) return value
  switch (type["type"]) {
    case "bytes":
    case "fixed":
      return Buffer.from(value as Uint8Array).toString("latin1")
    case "array":
      return (value as ReadonlyArray<unknown>).map((each) => encoded(type["items"], each, names))
    case "map":
      return Object.fromEntries(
        Object.entries(value as Json).map(([key, each]) => [key, encoded(type["values"], each, names)])
      )
    case "record":
      return Object.fromEntries(
        fieldsOf(type).map((field) => {
          const name = String(field["name"])
          return [name, encoded(field["type"], (value as Json)[name], names)]
        })
      )
    default:
      return typeof type["type"] === "string" ? value : encoded(type["type"], value, names)
  }
}

/** The JSON encoding of a value. */
export const avroJson = (schema: string, value: unknown): string =>
  JSON.stringify(encoded(JSON.parse(schema), value, new Map()))
