/**
 * The invalid places of a body, as fields of a problem.
 */
import { issueText, type Refused } from "@millrace/core/issueText"
import { SchemaIssue } from "effect"

/** An invalid place: a JSON Pointer as a URI fragment (RFC 6901, 6), e.g. `#/lines/0/sku`, and the error at that place. */
export interface Field {
  readonly pointer: string
  readonly detail: string
}

/** The most fields of one problem; the client sees further errors after correcting these. */
export const maximumFields = 32

const maximumText = 256

const step = (key: PropertyKey): string =>
  encodeURIComponent(String(key).replaceAll("~", "~0").replaceAll("/", "~1")).slice(0, maximumText)

/** Cuts a text to 256 characters and replaces lone surrogates. */
export const wellFormed = (text: string): string => text.slice(0, maximumText).toWellFormed()

/**
 * The fields of a schema issue. No field contains a value of the body: the message of a custom check is shown only if `refused`
 * is given and the message contains nothing of the refused value.
 */
export const fieldsOfIssue = (issue: SchemaIssue.Issue, refused?: Refused): ReadonlyArray<Field> =>
  issueText(issue, refused).slice(0, maximumFields).map(({ message, path }) => ({
    pointer: `#${path.slice(0, maximumFields).map((part) => `/${step(wellFormed(String(part)))}`).join("")}`,
    detail: wellFormed(message)
  }))

const isField = (value: unknown): value is Field =>
  typeof value === "object" && value !== null && "pointer" in value && typeof value.pointer === "string" &&
  "detail" in value && typeof value.detail === "string"

/** The fields of an error: its `fields`, or those of its schema `issue`. */
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
    // reading a property of an arbitrary error may throw
    return []
  }
}
