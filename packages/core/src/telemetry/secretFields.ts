/**
 * Finds the fields of a schema that are marked as secrets, as paths into the encoded form of the schema.
 */
import type { SchemaAST } from "effect"

/** The annotation of a secret. */
export const SecretId = "~millrace/Redaction/secret"

/** The places of secrets. */
export interface SecretFields {
  /** Paths from the root: names, and `*` for any name; a list adds no part. An empty path is the whole value. */
  readonly paths: ReadonlyArray<ReadonlyArray<string>>
  /** Whether the schema contains itself, so that its paths have no end. */
  readonly recursive: boolean
}

type Annotated = { readonly annotations?: Readonly<Record<string, unknown>> | undefined } | undefined

const isMarked = (ast: SchemaAST.AST): boolean =>
  [ast, ast.context, ...ast.checks ?? []].some((each: Annotated) => each?.annotations?.[SecretId] === true) ||
  (ast._tag === "Declaration" && (ast.annotations?.["expected"] === "Redacted"))

const namesOf = (ast: SchemaAST.AST): ReadonlySet<string> =>
  new Set(ast._tag === "Objects" ? ast.propertySignatures.map(({ name }) => String(name)) : [])

/** Finds the marked fields of a schema, and fields of `Redacted`. */
export const secretFields = (root: SchemaAST.AST): SecretFields => {
  const paths: Array<ReadonlyArray<string>> = []
  let recursive = false

  const inside = (ast: SchemaAST.AST, path: ReadonlyArray<string>, above: ReadonlyArray<SchemaAST.AST>): void => {
    switch (ast._tag) {
      case "Objects":
        for (const { name, type } of ast.propertySignatures) walk(type, [...path, String(name)], above)
        for (const { type } of ast.indexSignatures) walk(type, [...path, "*"], above)
        return
      case "Arrays":
        return [...ast.elements, ...ast.rest].forEach((each) => walk(each, path, above))
      case "Union":
        return ast.types.forEach((each) => walk(each, path, above))
      case "Declaration":
        return ast.typeParameters.forEach((each) => walk(each, path, above))
      case "Suspend":
        return walk(ast.thunk(), path, above)
    }
  }

  const walk = (ast: SchemaAST.AST, path: ReadonlyArray<string>, above: ReadonlyArray<SchemaAST.AST>): void => {
    if (isMarked(ast)) return void paths.push(path)
    if (above.includes(ast)) {
      recursive = true
      return
    }
    const before = paths.length
    inside(ast, path, [...above, ast])
    const found = paths.slice(before)
    for (const { to } of ast.encoding ?? []) {
      walk(to, path, [...above, ast])
      // encoded under another name, or as another type: then the whole value is the secret
      const names = namesOf(to)
      if (found.some((each) => !names.has(each[path.length] ?? ""))) paths.push(path)
    }
  }

  walk(root, [], [])
  return { paths, recursive }
}
