/** The places of messages in Protobuf schemas, as Confluent's wire format counts them. */
import { type DescFile, type DescMessage, fromBinary } from "@bufbuild/protobuf"
import {
  type DescriptorProto,
  Edition,
  FieldDescriptorProto_Type,
  FileDescriptorProtoSchema
} from "@bufbuild/protobuf/wkt"

/** A group of proto2 declares a message type beside its field; clients do not count it. */
const isGroupOf = (message: DescMessage, parent: DescMessage): boolean =>
  parent.file.edition === Edition.EDITION_PROTO2 &&
  [...parent.fields, ...parent.nestedExtensions].some((field) =>
    field.message === message && field.proto.type === FieldDescriptorProto_Type.GROUP
  )

/** Returns the indexes of a message in its file, from the outermost message inwards. */
export const indexesOf = (message: DescMessage): ReadonlyArray<number> => {
  const { parent } = message
  if (parent === undefined) return [message.file.messages.indexOf(message)]
  return [
    ...indexesOf(parent),
    parent.nestedMessages.filter((each) => !isGroupOf(each, parent)).indexOf(message)
  ]
}

/** The messages of a schema, as they stand in it. */
interface Node {
  readonly name: string
  /** The entry of a map: a message in a descriptor, and none in the text of a `.proto` file. */
  isEntry: boolean
  readonly children: Array<Node>
}

/** A schema that comes from a registry is input: its size is bounded. */
const most = { messages: 10_000, depth: 64, text: 4 * 1024 * 1024 }

const refuse = (why: string): never => {
  throw new RangeError(`the Protobuf schema ${why}`)
}

const bounded = () => {
  let count = 0
  return (name: string, isEntry: boolean): Node => {
    if (++count > most.messages) refuse(`has more than ${most.messages} messages`)
    return { name, isEntry, children: [] }
  }
}

const token = /\/\/[^\n]*|\/\*[\s\S]*?\*\/|"(?:\\[\s\S]|[^"\\\n])*"|'(?:\\[\s\S]|[^'\\\n])*'|[\w.]+|\S/g

/** Reads the messages from the text of a `.proto` file, without the rest of the grammar. */
const ofText = (text: string): Node => {
  const node = bounded()
  const top = { name: "", isEntry: false, children: [] as Array<Node> }
  let prefix = ""
  // open blocks: messages, and undefined for an extend, a oneof, an enum, a group, or the value of an option
  const open: Array<Node | undefined> = [top]
  let statement: Array<string> = []
  for (const [word] of text.matchAll(token)) {
    if (word.startsWith("//") || word.startsWith("/*")) continue
    if (word === "{") {
      const parent = open.at(-1)
      const [keyword, name] = statement
      if (open.length > most.depth) refuse(`is nested more than ${most.depth} deep`)
      const isMessage = keyword === "message" && name !== undefined && statement.length === 2
      const made = isMessage && parent !== undefined ? node(name, false) : undefined
      if (made !== undefined) parent?.children.push(made)
      open.push(made)
      statement = []
    } else if (word === "}") {
      if (open.length > 1) open.pop()
      statement = []
    } else if (word === ";") {
      const current = open.at(-1)
      if (current === top && statement[0] === "package") prefix = statement[1] ?? ""
      // texts that are printed from a descriptor have entries
      if (current !== undefined && statement.join(" ") === "option map_entry = true") current.isEntry = true
      statement = []
    } else if (statement.length === 0 && (word === "export" || word === "local")) {
      // the visibility of a message, since edition 2024
      continue
    } else if (statement.length < 5) {
      statement.push(word)
    }
  }
  return { ...top, name: prefix }
}

const ofDescriptor = (text: string): Node => {
  const file = fromBinary(FileDescriptorProtoSchema, Buffer.from(text, "base64"), { recursionLimit: most.depth })
  const node = bounded()
  const nodesOf = (messages: ReadonlyArray<DescriptorProto>, groups: ReadonlySet<string>): Array<Node> =>
    messages.filter(({ name }) => !groups.has(name)).map((message) => {
      const inside = [...message.field, ...message.extension]
        .filter((field) => field.type === FieldDescriptorProto_Type.GROUP)
        .map((field) => field.typeName.slice(field.typeName.lastIndexOf(".") + 1))
      const made = node(message.name, message.options?.mapEntry === true)
      made.children.push(...nodesOf(message.nestedType, new Set(inside)))
      return made
    })
  return { name: file.package, isEntry: false, children: nodesOf(file.messageType, new Set()) }
}

/** The places of messages, e.g. `1.0`, by their full names. */
export type Places = ReadonlyMap<string, string>

const placesIn = (top: Node, isCounted: (node: Node) => boolean): Places => {
  const places = new Map<string, string>()
  const walk = (parent: Node, name: string, place: string): void => {
    parent.children.filter(isCounted).forEach((each, index) => {
      const full = name === "" ? each.name : `${name}.${each.name}`
      places.set(full, `${place}${index}`)
      walk(each, full, `${place}${index}.`)
    })
  }
  walk(top, top.name, "")
  return places
}

/**
 * Reads the places of messages from a registered schema: the text of a `.proto` file, or its descriptor in base64.
 *
 * Clients for JavaScript do not count the entries of maps. Those for Java count them where the schema has them: `withEntries`.
 */
export const placesOf = (schema: string): { readonly plain: Places; readonly withEntries: Places } => {
  if (schema.length > most.text) refuse(`has more than ${most.text} characters`)
  // a descriptor has none of these letters in base64, and the text of a file with a message has all
  const top = /[{};]/.test(schema) ? ofText(schema) : ofDescriptor(schema)
  return { plain: placesIn(top, (each) => !each.isEntry), withEntries: placesIn(top, () => true) }
}

/** Files that every registry has. */
const known = /^google\/protobuf\//

/** The files that a file imports and a registry does not have, in the order of their imports. */
export const importsOf = (file: DescFile): ReadonlyArray<DescFile> =>
  file.dependencies.filter((each) => !known.test(`${each.name}.proto`))
