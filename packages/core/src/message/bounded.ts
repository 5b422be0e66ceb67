/** Cuts a text to at most `length` characters; a cut text ends with `…`, and never in the middle of a character. */
export const bounded = (text: string, length: number): string => {
  if (text.length <= length) return text
  const last = text.charCodeAt(length - 2)
  return `${text.slice(0, last >= 0xd800 && last < 0xdc00 ? length - 2 : length - 1)}…`
}
