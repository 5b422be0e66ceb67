/**
 * Names of secrets: JSON fields, headers, parameters, and words before a value in a text.
 */

/** Names given by a program; see `Redaction.Options`. */
export interface Named {
  /** Compared as a whole, ignoring case and punctuation. */
  readonly whole: ReadonlySet<string>
  /** Compared with the whole name and with its last words: `pin` matches `card_pin` and `cardPin`, and not `spin`. */
  readonly last: ReadonlySet<string>
  /** Found anywhere in a name. */
  readonly containing: ReadonlyArray<string>
  readonly patterns: ReadonlyArray<RegExp>
}

/** The names of secrets. */
export interface SecretNames {
  /** Tells whether a field, header or parameter of this name is a secret. */
  readonly has: (name: string) => boolean
  /** Tells whether up to three words before a value in a text name a secret: `the api key`, `user[password]`. */
  readonly ends: (words: string) => boolean
}

// names repeat from message to message; a stream of invented names must not fill the memory
const remembered = 1000

const known = new Map<string, string>()

/** Returns the small letters and digits of a name; cached for 1,000 short names. */
export const plain = (name: string): string => {
  const found = known.get(name)
  if (found !== undefined) return found
  const made = name.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "")
  if (known.size < remembered && name.length <= 64) known.set(name, made)
  return made
}

/** The longest name that is checked; of a longer name, its end. */
const longest = 256

const remember = (decide: (name: string) => boolean): (name: string) => boolean => {
  const seen = new Map<string, boolean>()
  return (name) => {
    const known = seen.get(name)
    if (known !== undefined) return known
    const found = decide(name.length > longest ? name.slice(-longest) : name)
    if (seen.size < remembered && name.length <= longest) seen.set(name, found)
    return found
  }
}

/** The words of a name: `cardPin`, `card_pin` and `CARD-PIN` have two. */
const word = /\p{Lu}+(?![\p{Ll}])|\p{Lu}?[\p{Ll}]+|[\p{Lo}\p{Lm}]+|\p{N}+/gu

/** Returns the last part of `user[card][]` or `user.card.0`: the name of the value. */
const lastPart = (name: string): string =>
  name.split(/[[\].]+/).findLast((part) => part !== "" && !/^\d+$/.test(part)) ?? name

/** Compiles the names; the verdict on a name is cached, for 1,000 names. */
export const secretNames = ({ containing, last, patterns, whole }: Named): SecretNames => {
  const endsWithLast = (name: string): boolean => {
    const words = name.match(word) ?? []
    let end = ""
    for (let i = words.length - 1; i >= 0 && end.length < 64; i--) {
      end = words[i]!.toLowerCase() + end
      if (last.has(end)) return true
    }
    return false
  }
  const has = remember((name) => {
    const bare = plain(name)
    const part = lastPart(name)
    return whole.has(bare) || last.has(bare) || containing.some((each) => bare.includes(each)) ||
      (part !== name && whole.has(plain(part))) || endsWithLast(part) || patterns.some((each) => each.test(name))
  })
  const ends = remember((words) => {
    const all = words.split(/\s+/)
    const own = all.at(-1) ?? ""
    if (has(own)) return true
    const size = plain(own).length
    if (size === 0) return false
    for (let i = all.length - 2; i >= 0; i--) {
      const joined = plain(all.slice(i).join(" "))
      // the name must reach into the last word: `token expired at: 5` names no secret
      if (whole.has(joined) || last.has(joined)) return true
      if (
        containing.some((each) =>
          joined.lastIndexOf(each) + each.length > joined.length - size && joined.includes(each)
        )
      ) {
        return true
      }
    }
    return false
  })
  return { has, ends }
}

const set = (...names: ReadonlyArray<string>): ReadonlySet<string> => new Set(names)

/** Parameters of a URL's query that are secrets there but may be anything elsewhere: OAuth codes, signatures, keys. */
export const inQuery: ReadonlySet<string> = set(
  "assertion",
  "code",
  "key",
  "samlresponse",
  "sig",
  "signature",
  "ticket"
)

/** Fields that hold a name, beside a field that holds its value. */
export const naming: ReadonlySet<string> = set(
  "attribute",
  "env",
  "field",
  "header",
  "k",
  "key",
  "label",
  "name",
  "option",
  "param",
  "parameter",
  "property",
  "setting",
  "variable"
)

const holding = set(
  "after",
  "before",
  "content",
  "contents",
  "current",
  "data",
  "default",
  "from",
  "input",
  "new",
  "old",
  "raw",
  "string",
  "text",
  "to",
  "v",
  "val"
)

/** Tells whether a field holds the value for a name in another field; `bare` is in small letters and digits. */
export const isHolding = (bare: string): boolean => holding.has(bare) || bare.includes("value")

/** Headers whose values contain blanks and lists, and are secret to the end of the line. */
export const wholeLine: ReadonlySet<string> = set("authorization", "cookie", "proxyauthorization", "setcookie")

/** Tells whether a text may be the name of a field: short, and without blanks. */
export const isName = (text: string): boolean => text.length <= 64 && /^[\w.$@:[\]/-]+$/.test(text)
