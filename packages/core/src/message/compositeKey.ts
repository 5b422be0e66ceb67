/**
 * One text for several.
 */

/**
 * Joins texts so that two different lists never give the same text, whatever characters they hold: each is written after its
 * length in UTF-16 code units and a colon. For keys of which a part comes from outside.
 *
 * **Example** (a line break in a part moves nothing)
 *
 * ```ts
 * import { compositeKey } from "@millrace/core/compositeKey"
 *
 * console.log(compositeKey("orders", "acme", "7")) // => 6:orders4:acme1:7
 * ```
 */
export const compositeKey = (...parts: ReadonlyArray<string>): string => {
  let key = ""
  for (const part of parts) key += `${part.length}:${part}`
  return key
}
