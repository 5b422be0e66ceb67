/**
 * The places of marked values in the encoded form of a schema. A place stands for every schema that a value there may have; places are
 * made when a walk first reaches them, so a schema may contain itself.
 */
import type { SchemaAST } from "effect"

/** The annotation of a marked value. */
export const MarkId = "~millrace/EncryptedField/mark"

/** How a marked value is encrypted. */
export interface Mark {
  /** The names that lead to the id of the data subject, from the root of the encoded payload; undefined for none. */
  readonly subject: ReadonlyArray<string> | undefined
  /** Whether the value of an erased subject is read as `Erased`. */
  readonly erasable: boolean
  readonly mode: "random" | "deterministic"
}

interface Annotated {
  readonly annotations?: Readonly<Record<string, unknown>> | undefined
  readonly checks?: ReadonlyArray<Annotated> | undefined
}

const isMark = (value: unknown): value is Mark =>
  typeof value === "object" && value !== null && "subject" in value && "erasable" in value && "mode" in value

// a check that is added later takes over no annotation: each part may have it
const markIn = (part: Annotated): Mark | undefined => {
  const own = part.annotations?.[MarkId]
  if (isMark(own)) return own
  for (const check of part.checks ?? []) {
    const found = markIn(check)
    if (found !== undefined) return found
  }
  return undefined
}

const markOf = (ast: SchemaAST.AST): Mark | undefined =>
  markIn(ast) ?? (ast.context === undefined ? undefined : markIn(ast.context))

const childrenOf = (ast: SchemaAST.AST): ReadonlyArray<SchemaAST.AST> => {
  switch (ast._tag) {
    case "Objects":
      return [...ast.propertySignatures, ...ast.indexSignatures].map(({ type }) => type)
    case "Arrays":
      return [...ast.elements, ...ast.rest]
    case "Union":
      return ast.types
    case "Declaration":
      return ast.typeParameters
    case "TemplateLiteral":
      return ast.parts
    case "Suspend":
      return [ast.thunk()]
  }
  return []
}

/** Collects the marks of a schema and of its encoded form. */
const marksIn = (root: SchemaAST.AST): ReadonlySet<Mark> => {
  const marks = new Set<Mark>()
  const seen = new Set<SchemaAST.AST>()
  const left = [root]
  for (let ast = left.pop(); ast !== undefined; ast = left.pop()) {
    if (seen.has(ast)) continue
    seen.add(ast)
    const mark = markOf(ast)
    if (mark !== undefined) {
      marks.add(mark)
      continue
    }
    const keys = ast._tag === "Objects" ? ast.indexSignatures.map(({ parameter }) => parameter) : []
    left.push(...childrenOf(ast), ...keys, ...(ast.encoding ?? []).map(({ to }) => to))
  }
  return marks
}

const refuse = (path: string, sentence: string): never => {
  throw new RangeError(`EncryptedField: ${path === "" ? "the payload" : path} ${sentence}`)
}

/** Counts the places where marks stand in schemas; one schema may stand in many. */
const countIn = (roots: ReadonlyArray<SchemaAST.AST>): number => {
  const seen = new Set<SchemaAST.AST>()
  const left = [...roots]
  let count = 0
  for (let ast = left.pop(); ast !== undefined; ast = left.pop()) {
    if (markOf(ast) !== undefined) {
      count++
      continue
    }
    if (seen.has(ast)) continue
    seen.add(ast)
    const last = ast.encoding?.at(-1)
    left.push(...last === undefined ? childrenOf(ast) : [last.to])
  }
  return count
}

const lost = "has a marked value that its encoded form does not show: mark the schema that it is encoded to"

/** The parts of a schema that an encoded value may have: no unions, and no transformations. Refuses marks that get lost between. */
const encodedOf = (
  ast: SchemaAST.AST,
  path: string,
  seen: ReadonlySet<SchemaAST.AST> = new Set()
): ReadonlyArray<SchemaAST.AST> => {
  if (seen.has(ast)) return []
  const below = new Set(seen).add(ast)
  if (markOf(ast) !== undefined) return [ast]
  const last = ast.encoding?.at(-1)
  if (last !== undefined) {
    return countIn(childrenOf(ast)) > countIn([last.to]) ? refuse(path, lost) : encodedOf(last.to, path, below)
  }
  switch (ast._tag) {
    case "Suspend":
      return encodedOf(ast.thunk(), path, below)
    case "Union":
      return ast.types.flatMap((each) => encodedOf(each, path, below))
    case "Objects":
      if (ast.indexSignatures.some(({ parameter }) => marksIn(parameter).size > 0)) {
        refuse(path, "has marked keys: only values can be encrypted")
      }
      return [ast]
    case "Arrays":
      return [ast]
  }
  return marksIn(ast).size > 0 ? refuse(path, lost) : [ast]
}

const isSame = (a: Mark, b: Mark): boolean =>
  a.mode === b.mode && a.erasable === b.erasable && a.subject?.join("\n") === b.subject?.join("\n")

/** A place in the encoded form that is marked, or has marked places inside. */
export class Place {
  readonly path: string
  readonly mark: Mark | undefined
  private readonly asts: ReadonlyArray<SchemaAST.AST>
  private readonly known: Places
  private readonly names: ReadonlySet<string>
  private readonly elements: number
  private readonly children = new Map<string | number, Place | undefined>()

  constructor(asts: ReadonlyArray<SchemaAST.AST>, path: string, known: Places) {
    this.asts = asts
    this.path = path
    this.known = known
    this.names = new Set(
      asts.flatMap((ast) => ast._tag === "Objects" ? ast.propertySignatures.map(({ name }) => String(name)) : [])
    )
    this.elements = Math.max(0, ...asts.map((ast) => ast._tag === "Arrays" ? ast.elements.length : 0))
    const marked = asts.filter((ast) => markOf(ast) !== undefined)
    const [mark, ...others] = marked.map(markOf).filter((each) => each !== undefined)
    this.mark = mark
    if (mark === undefined) return
    if (others.some((other) => !isSame(mark, other))) refuse(path, "is marked in two ways: mark the union instead")
    if (asts.some((ast) => !marked.includes(ast) && marksIn(ast).size > 0)) {
      refuse(path, "is marked as a whole and inside: keep one of them")
    }
  }

  /** The place of a property. Names that the schema does not have are the sender's: they share one place. */
  at(name: string): Place | undefined {
    const isNamed = this.names.has(name)
    return this.child(isNamed ? `.${name}` : "*", isNamed ? name : "*", (ast) => {
      if (ast._tag !== "Objects") return []
      const named = isNamed ? ast.propertySignatures.filter((each) => each.name === name) : []
      return (named.length === 0 ? ast.indexSignatures : named).map(({ type }) => type)
    })
  }

  /** The place of an element. Those behind the fixed elements share one. */
  item(index: number): Place | undefined {
    const at = Math.min(index, this.elements)
    return this.child(at, "*", (ast) => {
      if (ast._tag !== "Arrays") return []
      const own = ast.elements[at]
      return own === undefined ? ast.rest : [own]
    })
  }

  private child(
    key: string | number,
    name: string,
    of: (ast: SchemaAST.AST) => ReadonlyArray<SchemaAST.AST>
  ): Place | undefined {
    if (!this.children.has(key)) {
      this.children.set(key, this.known.of(this.asts.flatMap(of), this.path === "" ? name : `${this.path}.${name}`))
    }
    return this.children.get(key)
  }

  /** Makes every place below, and returns the marks. */
  explore(seen: Set<SchemaAST.AST> = new Set()): ReadonlyArray<Mark> {
    if (this.mark !== undefined) return this.asts.flatMap((ast) => markOf(ast) ?? [])
    if (this.asts.every((ast) => seen.has(ast))) return []
    this.asts.forEach((ast) => seen.add(ast))
    const below = [
      ...Array.from(this.names, (name) => this.at(name)),
      ...(this.asts.some((ast) => ast._tag === "Objects" && ast.indexSignatures.length > 0) ? [this.at("")] : []),
      ...Array.from({ length: this.elements + 1 }, (_, index) => this.item(index))
    ]
    return below.flatMap((place) => place?.explore(seen) ?? [])
  }
}

/** The places of one schema. */
class Places {
  private readonly ids = new Map<SchemaAST.AST, number>()
  private readonly places = new Map<string, Place | undefined>()

  of(asts: ReadonlyArray<SchemaAST.AST>, path: string): Place | undefined {
    const parts = [...new Set(asts.flatMap((ast) => encodedOf(ast, path)))]
    const id = parts.map((ast) => {
      const number = this.ids.get(ast) ?? this.ids.size
      this.ids.set(ast, number)
      return number
    }).sort((a, b) => a - b).join()
    if (!this.places.has(id)) {
      this.places.set(id, parts.some((ast) => marksIn(ast).size > 0) ? new Place(parts, path, this) : undefined)
    }
    return this.places.get(id)
  }
}

/**
 * Finds the marked places of a schema in the form that its codec encodes.
 *
 * @throws RangeError when a marked value cannot be found in the encoded form, is marked twice, or nothing is marked
 */
export const placesOf = (ast: SchemaAST.AST): { readonly root: Place; readonly marks: ReadonlyArray<Mark> } => {
  const root = new Places().of([ast], "")
  const found = new Set(root?.explore() ?? [])
  if (root === undefined || found.size === 0) return refuse("", "has no marked value")
  return { root, marks: [...found] }
}
