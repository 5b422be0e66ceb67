/**
 * The places of a body that are wrong, as a problem names them.
 */
import { issueText, type Refused } from "@millrace/core/issueText"
import { SchemaIssue } from "effect"

/** A place that is wrong: a JSON Pointer as a URI fragment (RFC 6901, 6), e.g. `#/lines/0/sku`, and what is wrong there. */
export interface Field {
  readonly pointer: string
  readonly detail: string
}

/** Most fields of one problem; what else is wrong shows when these are mended. */
export const maximumFields = 32

const maximumText = 256

const step = (key: PropertyKey): string =>
  encodeURIComponent(String(key).replaceAll("~", "~0").replaceAll("/", "~1")).slice(0, maximumText)

/** A text as JSON may hold it, cut. */
export const wellFormed = (text: string): string => text.slice(0, maximumText).toWellFormed()

/**
 * The places where a schema refuses; values of the body are in none. A sentence that a check made is shown where `refused` is given
 * and the sentence has nothing of it.
 */
export const fieldsOfIssue = (issue: SchemaIssue.Issue, refused?: Refused): ReadonlyArray<Field> =>
  issueText(issue, refused).slice(0, maximumFields).map(({ message, path }) => ({
    pointer: `#${path.slice(0, maximumFields).map((part) => `/${step(wellFormed(String(part)))}`).join("")}`,
    detail: wellFormed(message)
  }))

const isField = (value: unknown): value is Field =>
  typeof value === "object" && value !== null && "pointer" in value && typeof value.pointer === "string" &&
  "detail" in value && typeof value.detail === "string"

/** The places that an error names: its `fields`, or those of the schema's `issue` that it carries. */
export const fieldsOf = (error: unknown): ReadonlyArray<Field> => {
  if (typeof error !== "object" || error === null) return []
  try {
    if ("fields" in error && Array.isArray(error.fields)) {
      return error.fields.filter(isField).slice(0, maximumFields).map(({ detail, pointer }) => ({
        pointer: wellFormed(pointer),
        detail: wellFormed(detail)
      }))
    }
    return "issue" in error && SchemaIssue.isIssue(error.issue) ? fieldsOfIssue(error.issue) : []
  } catch {
    // an error may be any value, also one whose fields cannot be read
    return []
  }
}
