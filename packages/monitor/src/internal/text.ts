/** Texts from errors: bounded, on one line. */

/** Cuts a text to at most `length` characters, never in the middle of a character. */
export const bounded = (text: string, length: number): string => {
  if (text.length <= length) return text
  const last = text.charCodeAt(length - 2)
  return `${text.slice(0, last >= 0xd800 && last < 0xdc00 ? length - 2 : length - 1)}…`
}

const odd = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]+/gu

/** Puts a text on one line: control characters, line separators and marks of text direction become blanks. */
export const oneLine = (text: string, length: number): string => bounded(text, length).replaceAll(odd, " ")

/** Hashes a text to 32 bits by FNV-1a, then mixes the bits, so that similar texts differ in all of them. */
export const hash32 = (text: string, seed: number): number => {
  let hash = 0x811c9dc5 ^ seed
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

/** Hashes a text to 16 hexadecimal digits. */
export const hash64 = (text: string): string =>
  hash32(text, 0).toString(16).padStart(8, "0") + hash32(text, 0x9e3779b9).toString(16).padStart(8, "0")
