import { type DescMessage, ScalarType } from "@bufbuild/protobuf"

/** Tells whether a message type, or one inside it, has a map with texts as keys. */
export const hasTextMaps = (desc: DescMessage, seen: Set<DescMessage> = new Set()): boolean => {
  if (seen.has(desc)) return false
  seen.add(desc)
  return desc.fields.some((field) =>
    (field.fieldKind === "map" && field.mapKey === ScalarType.STRING) ||
    (field.message !== undefined && hasTextMaps(field.message, seen))
  )
}

const token = "__proto__"

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null

const inside = (desc: DescMessage, message: unknown): boolean =>
  isObject(message) && desc.fields.some((field) => {
    const own: unknown = field.oneof === undefined
      ? Reflect.get(message, field.localName)
      : chosen(Reflect.get(message, field.oneof.localName), field.localName)
    if (!isObject(own)) return false
    if (field.fieldKind === "map" && Object.hasOwn(own, token)) return true
    const child = field.message
    if (child === undefined) return false
    return field.fieldKind === "message"
      ? inside(child, own)
      : Object.values(own).some((each) => inside(child, each))
  })

const chosen = (oneof: unknown, name: string): unknown =>
  isObject(oneof) && "case" in oneof && oneof.case === name && "value" in oneof ? oneof.value : undefined

/** Tells whether a map of a decoded message has the key `__proto__`; the message is searched only if the bytes hold the word. */
export const hasPrototypeKey = (desc: DescMessage, bytes: Uint8Array, message: unknown): boolean =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).includes(token) && inside(desc, message)
