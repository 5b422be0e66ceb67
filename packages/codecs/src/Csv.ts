/**
 * CSV: a payload that is a list of records, one in each line (RFC 4180).
 */
import { type Channel, OptionCheck } from "@millrace/core"
import type { Schema } from "effect"
import { defaults as bounds } from "./internal/bounds.ts"
import * as Rows from "./internal/csv.ts"

/** The bytes are no CSV of these columns, or a value has no form in it. Its message holds no value of the body. */
export const CsvError = Rows.CsvError
/** The bytes are no CSV of these columns, or a value has no form in it. Its message holds no value of the body. */
export type CsvError = Rows.CsvError

/** Options of `codec`. */
export interface Options {
  /**
   * `present`: the first line has the names of the columns. Readers take them in any order and pass over other columns. `absent`:
   * every line is a record, with exactly these columns. Default: `present`.
   */
  readonly header?: "present" | "absent" | undefined
  /** The largest body, in bytes; an integer from 1. Default: 16 MiB. */
  readonly maximumBytes?: number | undefined
  /** The most fields of all lines; an integer from 1. Default: 1,000,000. */
  readonly maximumItems?: number | undefined
}

/** The defaults of the options. */
export const defaults: { readonly header: "present"; readonly maximumBytes: number; readonly maximumItems: number } = {
  header: "present",
  maximumBytes: bounds.maximumBytes,
  maximumItems: bounds.maximumItems
}

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true })

const refuse = (sentence: string): never => {
  throw new Rows.CsvError(sentence)
}

const textOf = (value: unknown, column: string): string => {
  switch (typeof value) {
    case "string":
      return value.isWellFormed() ? value : refuse(`the column ${column} has half of a surrogate pair`)
    case "number":
    case "boolean":
    case "bigint":
      return String(value)
    default:
      return value === undefined || value === null
        ? ""
        : refuse(`the column ${column} has a value that is no text, number or boolean`)
  }
}

/** Returns the columns of records: the fields of a struct, in their order. */
export const columnsOf = (schema: Schema.Struct<Schema.Struct.Fields>): ReadonlyArray<string> =>
  Object.keys(schema.fields)

/**
 * Makes a codec of CSV, `text/csv; charset=utf-8`: the payload is a list of records with these columns.
 *
 * Every field is read as a text, so the schema of a number is `Schema.NumberFromString`. A missing value is written as an empty
 * field, and read as an empty text. Lines are written with CRLF, and read with LF, too; a byte order mark is passed over. Fields
 * that begin with `=`, `+`, `-` or `@` are formulas to some spreadsheets; they are written as they are.
 *
 * Errors: `CsvError` with the row, for bytes that are not UTF-8, rows of another length, quotes in the middle of a field, a
 * header that lacks a column or has one twice, values that are no text, number or boolean, and beyond the limits.
 *
 * Source: RFC 4180.
 *
 * @example
 * ```ts
 * import { Channel } from "@millrace/core"
 * import { Csv } from "@millrace/codecs"
 * import { Schema } from "effect"
 *
 * const Line = Schema.Struct({ sku: Schema.String, amount: Schema.NumberFromString })
 * const Lines = Channel.make("lines", { payload: Schema.Array(Line), codec: Csv.codec(Csv.columnsOf(Line)) })
 *
 * const bytes = Csv.codec(["sku", "amount"]).encode([{ sku: "a, b", amount: 3 }])
 * console.log(JSON.stringify(new TextDecoder().decode(bytes))) // => "sku,amount\r\n\"a, b\",3\r\n"
 * ```
 *
 * @throws RangeError for a wrong option, no columns, and columns that are empty, `__proto__` or equal
 * @category constructors
 */
export const codec = (columns: ReadonlyArray<string>, options: Options = {}): Channel.Codec => {
  const check = OptionCheck.make("Csv")
  const hasHeader = check.oneOf("header", options.header ?? defaults.header, ["present", "absent"]) === "present"
  const mostBytes = check.count("maximumBytes", options.maximumBytes ?? defaults.maximumBytes)
  const mostItems = check.count("maximumItems", options.maximumItems ?? defaults.maximumItems)
  const unfit = columns.find((each) => each === "" || each === "__proto__")
  if (columns.length === 0 || unfit !== undefined || new Set(columns).size < columns.length) {
    throw new RangeError("Csv: columns must be names that differ, at least one, and not __proto__")
  }
  const isAlone = columns.length === 1
  const lineOf = (texts: ReadonlyArray<string>): string =>
    `${texts.map((each) => Rows.writeField(each, isAlone)).join(",")}\r\n`
  const head = hasHeader ? lineOf(columns) : ""

  const recordOf = (value: unknown): string => {
    if (typeof value !== "object" || value === null) return refuse("a record is needed in each place of the list")
    const fields = new Map(Object.entries(value))
    return lineOf(columns.map((column) => textOf(fields.get(column), column)))
  }

  /** The places of the columns in a row. */
  const placesOf = (names: ReadonlyArray<string>): ReadonlyArray<number> => {
    if (new Set(names).size < names.length) refuse("the header has a column twice")
    return columns.map((column) => {
      const at = names.indexOf(column)
      return at < 0 ? refuse(`the header has no column ${column}`) : at
    })
  }

  return {
    contentType: "text/csv; charset=utf-8",
    encode: (value) => {
      if (!Array.isArray(value)) throw new Rows.CsvError(`a list of records is needed, got ${typeof value}`)
      if (value.length * columns.length > mostItems) refuse(`the list has more than ${mostItems} fields`)
      const bytes = encoder.encode(head + value.map(recordOf).join(""))
      return bytes.length > mostBytes ? refuse(`the text has more than ${mostBytes} bytes`) : bytes
    },
    decode: (bytes) => {
      if (bytes.length > mostBytes) refuse(`the body has more than ${mostBytes} bytes`)
      let text: string
      try {
        text = decoder.decode(bytes)
      } catch {
        return refuse("the body is not UTF-8")
      }
      const records: Array<Record<string, string>> = []
      let places: ReadonlyArray<number> | undefined = hasHeader ? undefined : columns.map((_, at) => at)
      let width = columns.length
      Rows.readRows(text, mostItems, (fields, line) => {
        if (places === undefined) {
          places = placesOf(fields)
          width = fields.length
          return
        }
        if (fields.length !== width) refuse(`row ${line}: it has ${fields.length} fields, and ${width} are needed`)
        const record: Record<string, string> = {}
        for (let i = 0; i < columns.length; i++) record[columns[i]!] = fields[places[i]!]!
        records.push(record)
      })
      if (places === undefined) refuse("the header is missing")
      return records
    }
  }
}
