/**
 * Finds secrets in a text that is not JSON, or that contains it: after names, in URLs, between tags, behind flags, in pairs. One
 * pass over any text.
 */
import { type Found, knownSecrets } from "./knownSecrets.ts"
import { inQuery, isHolding, naming, plain, type SecretNames, wholeLine } from "./secretNames.ts"
import {
  closing,
  endOfUser,
  isLine,
  isNamePart,
  isQuote,
  isSpace,
  pair,
  part,
  scheme,
  schemes,
  space
} from "./textParts.ts"
import type { Unescaped } from "./unescaped.ts"

/** The longest name before a value, in characters. */
const longestName = 64

/** The most characters between a name that is a value and its own value: `name=password value=x`. */
const pairReach = 256

const letter = /\p{L}/u

const isDigit = (code: number): boolean => code >= 48 && code <= 57

/** The start and the end of a name, the end exclusive. */
type Name = readonly [start: number, end: number]

class Search {
  private readonly names: SecretNames
  private readonly view: Unescaped
  private readonly text: string
  private readonly found: Found
  /** A field has named a secret: its value is searched for up to this place. */
  private pending = -1

  constructor(names: SecretNames, view: Unescaped, found: Found) {
    this.names = names
    this.view = view
    this.text = view.text
    this.found = found
  }

  run(): void {
    const { text } = this
    let word = 0
    let i = 0
    while (i < text.length) {
      const code = text.charCodeAt(i)
      const from = i
      if (code === 61 || code === 58) {
        i = code === 58 && text.startsWith("//", i + 1)
          ? this.authority(i)
          : this.after(i)
      } else if (code === 62) i = this.tag(i)
      else if (code === 44) i = isQuote(text.charCodeAt(i - 1)) ? this.after(i) : i + 1
      else if (isSpace(code)) i = this.blank(i, word)
      else i++
      if (isSpace(code) || i - from > 1) word = i
    }
  }

  /** Handles a blank: before a quoted value after a name (`PASSWORD 'x'`), or before the value of a flag (`--password x`). */
  private blank(i: number, word: number): number {
    const { text } = this
    let next = i + 1
    while (isSpace(text.charCodeAt(next))) next++
    const isFlag = text.charCodeAt(word) === 45 && i - word <= longestName + 2
    if (!isFlag && !isQuote(text.charCodeAt(next))) return next
    const name = this.nameBefore(i)
    const [first, last] = name
    if (first === last || !isNamePart(text.charCodeAt(i - 1))) return next
    if (isFlag && text.charCodeAt(next) === 45) return next
    return this.isSecret(name) ? this.value(next, i, name) : next
  }

  /** Finds the name that ends before `i`, at most three words: its start, and its end, exclusive. */
  private nameBefore(i: number): Name {
    const { text } = this
    let end = i
    const least = Math.max(0, i - 32)
    // characters between a name and its separator: quotes, blanks, the dash of an arrow, the `*` of RFC 5987
    while (end > least) {
      const code = text.charCodeAt(end - 1)
      if (!isSpace(code) && !isQuote(code) && code !== 41 && code !== 42 && code !== 45 && code !== 92) break
      end--
    }
    let start = end
    let blanks = 0
    for (let at = end; at > 0; at--) {
      const code = text.charCodeAt(at - 1)
      if (isNamePart(code)) start = at - 1
      else if (code !== space || ++blanks > 2) break
      if (end - start > longestName * 3) break
    }
    return [start, end]
  }

  private isSecret([start, end]: Name): boolean {
    return end > start && this.names.ends(this.text.slice(start, end))
  }

  private lastWord([start, end]: Name): string {
    const words = this.text.slice(start, end)
    return words.slice(words.lastIndexOf(" ") + 1)
  }

  /** Handles `=`, `:` or a comma: reports the value if the name before it is that of a secret. */
  private after(i: number): number {
    const { text } = this
    const name = this.nameBefore(i)
    let next = i + 1
    if (text.charCodeAt(i) !== 44) { while (/[=:>]/.test(text[next] ?? "")) next++ }
    // most colons follow a number: of a port, a line, a time
    if (name[0] === name[1] || isDigit(text.charCodeAt(name[1] - 1)) && !letter.test(this.lastWord(name))) return next
    if (this.isSecret(name) || this.isParameter(name, i)) return this.value(next, i, name)
    const own = plain(this.lastWord(name))
    if (i <= this.pending && isHolding(own)) {
      this.pending = -1
      return this.value(next, i, name)
    }
    return naming.has(own) ? this.remember(next) : next
  }

  /** Tells whether the name is a URL parameter that is secret there. */
  private isParameter(name: Name, i: number): boolean {
    const { text } = this
    if (text.charCodeAt(i) !== 61) return false
    const word = this.lastWord(name)
    const before = text[name[1] - word.length - 1]
    if (before !== "?" && before !== "&" && before !== "#") return false
    const bare = plain(word)
    return inQuery.has(bare) || bare.endsWith("signature")
  }

  /** Handles `name=password`: marks the value of the named field as a secret. */
  private remember(from: number): number {
    const { text } = this
    let start = from
    while (isSpace(text.charCodeAt(start))) start++
    if (isQuote(text.charCodeAt(start))) start++
    let end = start
    while (end - start < longestName && isNamePart(text.charCodeAt(end))) end++
    const value = text.slice(start, end)
    if (value === "" || !this.names.has(value)) return from
    this.pending = end + pairReach
    part.lastIndex = end
    if (!text.slice(Math.max(0, from - 64), from).includes("form-data") || !part.test(text)) return from
    const begin = part.lastIndex
    const boundary = text.indexOf("\n--", begin)
    const stop = boundary === -1 ? text.length : boundary
    this.tell(begin, stop)
    this.pending = -1
    return stop
  }

  /** Handles the end of a tag: the value is the text up to the next tag. */
  private tag(i: number): number {
    const { text } = this
    const least = Math.max(0, i - pairReach)
    let open = i - 1
    while (open >= least && text[open] !== "<" && text[open] !== ">") open--
    if (text[open] !== "<") return text[i - 1] === "-" ? this.after(i) : i + 1
    const [, name] = /^<(?:[\w.-]+:)?([\w.-]+)/.exec(text.slice(open, i)) ?? []
    if (name === undefined) return i + 1
    const isValue = i <= this.pending && (isHolding(plain(name)) || /[^\s<]/.test(text[i + 1] ?? ""))
    if (!this.names.has(name) && !isValue) return i + 1
    this.pending = -1
    const close = text.startsWith("<![CDATA[", i + 1) ? text.indexOf("]]>", i) : text.indexOf("<", i + 1)
    const end = close === -1 ? text.length : close
    if (text.slice(i + 1, end).trim() !== "") this.tell(i + 1, end)
    return Math.max(end, i + 1)
  }

  /** Handles `://user:password@host`: reports all before the last `@` of the authority. */
  private authority(i: number): number {
    const begin = i + 3
    const end = endOfUser(this.text, begin)
    if (end === -1) return begin
    if (end > begin) this.tell(begin, end)
    return end + 1
  }

  /** Tells whether an unquoted value ends here. */
  private endsAt(at: number, level: number): boolean {
    const { text, view } = this
    if (isSpace(text.charCodeAt(at))) return view.level(at) <= level
    if (!closing.has(text[at]!)) return false
    if (view.level(at) > level && !isQuote(text.charCodeAt(at))) return false
    let next = at
    while (next < at + 8 && closing.has(text[next] ?? "")) next++
    if (next >= text.length || isSpace(text.charCodeAt(next))) return true
    if (text[at] === "<") return /[\w/!]/.test(text[at + 1] ?? "")
    pair.lastIndex = next
    return pair.test(text)
  }

  /** Reports the value that begins after `from`, and returns its end. `i` is the separator between name and value. */
  private value(from: number, i: number, name: Name): number {
    const { text, view } = this
    let begin = from
    while (isSpace(text.charCodeAt(begin))) begin++
    // a block of YAML
    const block = /^[|>][+-]?\s+/.exec(text.slice(begin, begin + 64))
    if (block !== null) begin += block[0].length
    if (begin >= text.length) return begin
    const first = text.charCodeAt(begin)
    if (isQuote(first)) return this.quoted(begin)
    if (text[begin] === "{" || text[begin] === "[") {
      this.tell(begin, text.length)
      return text.length
    }
    const level = view.level(i)
    const end = this.isWholeLine(from, i, name) ? this.lineEnd(begin, name[0], level) : this.wordEnd(begin, level)
    if (end > begin) this.tell(begin, end)
    return Math.max(end, from)
  }

  /** Reports a quoted value, up to the same quote escaped no more often than the first one; two in a row are SQL's escape. */
  private quoted(begin: number): number {
    const { text, view } = this
    const quote = text.charCodeAt(begin)
    const level = view.level(begin)
    let end = begin + 1
    for (; end < text.length; end++) {
      if (text.charCodeAt(end) !== quote || view.level(end) > level) continue
      if (quote === 39 && text.charCodeAt(end + 1) === 39) end++
      else break
    }
    if (end > begin + 1) this.tell(begin + 1, end)
    return Math.min(end + 1, text.length)
  }

  private wordEnd(begin: number, level: number): number {
    const { text } = this
    let end = begin
    scheme.lastIndex = begin
    const [word = ""] = text.slice(begin, begin + 16).match(/^\w+(?=[ \t])/) ?? []
    if (schemes.has(word.toLowerCase()) && scheme.test(text)) end = scheme.lastIndex
    while (end < text.length && !this.endsAt(end, level)) end++
    return end
  }

  /** Tells whether the value may have blanks: a header's value, or a line of a configuration file. */
  private isWholeLine(from: number, i: number, name: Name): boolean {
    const { text } = this
    const [start] = name
    if (wholeLine.has(plain(this.lastWord(name)))) return true
    if (text.charCodeAt(i) !== 58 && !(text.charCodeAt(i - 1) === space && text.charCodeAt(from) === space)) {
      return false
    }
    let at = start
    while (at > 0 && start - at < 64 && /[\t "'`#*-]/.test(text[at - 1]!)) at--
    return at === 0 || isLine(text.charCodeAt(at - 1))
  }

  /** Finds the end of the line, or of the quotes around the name. */
  private lineEnd(begin: number, start: number, level: number): number {
    const { text, view } = this
    const before = text.charCodeAt(start - 1)
    const quote = isQuote(before) ? before : undefined
    let end = begin
    while (end < text.length) {
      const code = text.charCodeAt(end)
      if (view.level(end) <= level && (isLine(code) || (code === quote && this.endsAt(end, level)))) break
      end++
    }
    return end
  }

  private tell(from: number, to: number): void {
    const value = this.text.slice(from, to)
    if (value.trim() !== "") this.found(from, to, value)
  }
}

/** Reports each secret of a text, by places in the unescaped text; they may overlap and come in any order. */
export const secretsInText = (names: SecretNames, view: Unescaped, found: Found): void => {
  if (view.text.length < 3) return
  knownSecrets(view.text, found)
  new Search(names, view, found).run()
}
