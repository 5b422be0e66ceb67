/** The attributes of an event: their names, their values, and the checks of both (CloudEvents 1.0.2, section 3). */

/** The attributes of an event. Values of extensions are texts: a boolean is `true` or `false`, an integer its digits. */
export interface Attributes {
  readonly specversion: "1.0"
  readonly id: string
  readonly source: string
  readonly type: string
  readonly subject?: string | undefined
  /** RFC 3339, as it was written. */
  readonly time?: string | undefined
  readonly datacontenttype?: string | undefined
  readonly dataschema?: string | undefined
  readonly extensions: Readonly<Record<string, string>>
}

/** The message is no event of CloudEvents 1.0, or an attribute has no valid form. Its message holds no value. */
export class CloudEventsError extends Error {
  override readonly name = "CloudEventsError"
}

/** Attributes by name, without a prototype. */
export type Flat = Record<string, string>

export const flat = (): Flat => Object.create(null)

/** The most attributes of an event, and the most UTF-16 units of their names and values: the size that intermediaries forward. */
const most = { attributes: 100, units: 64 * 1024 }

/** The longest name of an attribute that is written. */
const longestName = 20

/** Whether a text is a name of an attribute: small letters and digits. */
export const isName = (name: string): boolean => {
  if (name.length === 0 || name.length > 256 || name === "data") return false
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i)
    if ((code < 0x61 || code > 0x7a) && (code < 0x30 || code > 0x39)) return false
  }
  return true
}

// section 3.1: control characters, halves of surrogate pairs and noncharacters are no part of a String
const strange = /[\p{Cc}\p{Cs}\p{Noncharacter_Code_Point}]/u

const known: ReadonlySet<string> = new Set([
  "specversion",
  "id",
  "source",
  "type",
  "subject",
  "time",
  "datacontenttype",
  "dataschema"
])

const timestamp =
  /^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])[Tt](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/

const refuse = (sentence: string): never => {
  throw new CloudEventsError(sentence)
}

const required = (all: Flat, name: string): string => {
  const value = all[name]
  return value === undefined || value === "" ? refuse(`The attribute ${name} is missing or empty`) : value
}

/**
 * Checks the attributes of an event.
 *
 * @throws CloudEventsError when one is missing, or not valid
 */
export const attributesOf = (all: Flat): Attributes => {
  if (required(all, "specversion") !== "1.0") refuse("The attribute specversion is not 1.0")
  const extensions = flat()
  let count = 0
  let units = 0
  for (const name in all) {
    const value = all[name]!
    count++
    units += name.length + value.length
    if (count > most.attributes || units > most.units) {
      refuse(`An event has at most ${most.attributes} attributes of ${most.units} characters together`)
    }
    if (strange.test(value)) refuse(`The attribute ${name} has a control character, or is no Unicode`)
    if (!known.has(name)) extensions[name] = value
    else if (value === "") refuse(`The attribute ${name} is missing or empty`)
  }
  const { datacontenttype, dataschema, subject, time } = all
  if (time !== undefined && !timestamp.test(time)) refuse("The attribute time is not a time of RFC 3339")
  return {
    specversion: "1.0",
    id: required(all, "id"),
    source: required(all, "source"),
    type: required(all, "type"),
    ...(subject === undefined ? undefined : { subject }),
    ...(time === undefined ? undefined : { time }),
    ...(datacontenttype === undefined ? undefined : { datacontenttype }),
    ...(dataschema === undefined ? undefined : { dataschema }),
    extensions
  }
}

const reference = /^[\w\-.~:/?#[\]@!$&'()*+,;=%]+$/
const absolute = /^[A-Za-z][\w+.-]*:/

/**
 * Checks what readers may leave unchecked: URIs, and the length of names.
 *
 * @throws CloudEventsError when an attribute is not valid
 */
export const checkWritten = ({ dataschema, extensions, source }: Attributes): void => {
  if (!reference.test(source)) refuse("The attribute source is not a URI reference")
  if (dataschema !== undefined && !(reference.test(dataschema) && absolute.test(dataschema))) {
    refuse("The attribute dataschema is not a URI")
  }
  for (const name in extensions) {
    if (!isName(name) || name.length > longestName) {
      refuse(`The name of an extension is 1 to ${longestName} small letters and digits, and not data: this one is not`)
    }
  }
}

/** Returns the attributes by name. */
export const flatOf = (attributes: Attributes): Flat => {
  const all = flat()
  const { extensions, ...own } = attributes
  for (const name of Object.keys(own) as ReadonlyArray<keyof typeof own>) {
    const value = own[name]
    if (value !== undefined) all[name] = value
  }
  for (const name in extensions) {
    if (known.has(name)) refuse(`An extension has the name ${name}, which is an attribute of its own`)
    all[name] = extensions[name]!
  }
  return all
}
