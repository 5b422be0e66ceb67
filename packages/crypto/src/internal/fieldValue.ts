/**
 * The bytes of one value: a byte for its kind, and its content. JSON for all that JSON can hold.
 */

const kinds = { json: 0, bytes: 1, bigint: 2, date: 3, number: 4 } as const

const of = (kind: number, content: Uint8Array): Buffer => Buffer.concat([Buffer.from([kind]), content])

const float = (value: number): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeDoubleBE(value)
  return bytes
}

const isPlain = (value: unknown): boolean => {
  switch (typeof value) {
    case "string":
    case "boolean":
      return true
    case "number":
      return Number.isFinite(value)
    case "object": {
      if (value === null) return true
      if (Array.isArray(value)) return value.every(isPlain)
      const prototype: unknown = Object.getPrototypeOf(value)
      return (prototype === null || prototype === Object.prototype) &&
        Object.values(value).every((each) => each === undefined || isPlain(each))
    }
  }
  return false
}

/** Encodes a value. Throws a TypeError for values that are no JSON inside of lists and objects. */
export const toBytes = (value: unknown): Buffer => {
  if (value instanceof Uint8Array) return of(kinds.bytes, value)
  if (value instanceof Date) return of(kinds.date, float(value.getTime()))
  if (typeof value === "bigint") return of(kinds.bigint, Buffer.from(String(value)))
  if (typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0))) {
    return of(kinds.number, float(value))
  }
  if (!isPlain(value)) {
    throw new TypeError(
      "a marked list or object may hold what JSON can, and no bytes, bigints or dates: mark its parts"
    )
  }
  return of(kinds.json, Buffer.from(JSON.stringify(value)))
}

/** Decodes a value that `toBytes` encoded. Throws on other bytes. */
export const fromBytes = (bytes: Buffer): unknown => {
  const content = bytes.subarray(1)
  switch (bytes[0]) {
    case kinds.json:
      return JSON.parse(content.toString())
    case kinds.bytes:
      return new Uint8Array(content)
    case kinds.bigint:
      return BigInt(content.toString())
    case kinds.date:
      // a native codec's value is a Date
      // @effect-diagnostics-next-line globalDate:off
      return new Date(content.readDoubleBE())
    case kinds.number:
      return content.readDoubleBE()
  }
  throw new TypeError("the value has an unknown kind")
}
