/** Rows of CSV as RFC 4180 defines them; lines may also end with a line feed alone. */

/** The bytes are no CSV of these columns, or a value has no form in it. Its message holds no value of the body. */
export class CsvError extends Error {
  override readonly name = "CsvError"
}

const quote = 0x22
const comma = 0x2c
const feed = 0x0a
const carriage = 0x0d

/**
 * Reads the rows of a text, and calls `row` with the fields of each; `most` is the largest number of fields of all rows.
 *
 * @throws CsvError with the line when a row is not valid
 */
export const readRows = (
  text: string,
  most: number,
  row: (fields: ReadonlyArray<string>, line: number) => void
): void => {
  let at = 0
  let line = 1
  let count = 0
  const refuse = (sentence: string): never => {
    throw new CsvError(`row ${line}: ${sentence}`)
  }

  const quoted = (): string => {
    let value = ""
    at++
    for (;;) {
      const end = text.indexOf("\"", at)
      if (end < 0) return refuse("a quoted field has no end")
      value += text.slice(at, end)
      at = end + 1
      if (text.charCodeAt(at) !== quote) return value
      value += "\""
      at++
    }
  }

  const bare = (): string => {
    const start = at
    for (; at < text.length; at++) {
      const code = text.charCodeAt(at)
      if (code === comma || code === feed || (code === carriage && text.charCodeAt(at + 1) === feed)) break
      if (code === quote) refuse("a quote stands within a field that is not quoted")
      if (code === carriage) refuse("a carriage return stands within a field that is not quoted")
    }
    return text.slice(start, at)
  }

  while (at < text.length) {
    const fields: Array<string> = []
    for (;;) {
      fields.push(text.charCodeAt(at) === quote ? quoted() : bare())
      if (++count > most) refuse(`the body has more than ${most} fields`)
      if (text.charCodeAt(at) !== comma) break
      at++
    }
    if (at < text.length) {
      at += text.charCodeAt(at) === carriage ? 1 : 0
      if (text.charCodeAt(at) !== feed) refuse("characters follow a quoted field")
      at++
    }
    row(fields, line)
    line++
  }
}

// a byte order mark at the beginning is no part of the first field, unless quoted
const special = /[",\r\n\uFEFF]/

/** Writes one field. An empty one that is alone in its row is quoted, since an empty line is none. */
export const writeField = (text: string, isAlone: boolean): string =>
  special.test(text) || (isAlone && text === "") ? `"${text.replaceAll("\"", "\"\"")}"` : text
