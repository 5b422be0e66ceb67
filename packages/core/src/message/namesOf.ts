/**
 * The field names known to a schema: other keys of a value were written by its sender.
 */
import type { SchemaAST } from "effect"

const known = new WeakMap<SchemaAST.AST, ReadonlySet<PropertyKey>>()

const collect = (root: SchemaAST.AST): ReadonlySet<PropertyKey> => {
  const names = new Set<PropertyKey>()
  const seen = new Set<SchemaAST.AST>()
  const waiting = [root]
  for (let ast = waiting.pop(); ast !== undefined; ast = waiting.pop()) {
    if (seen.has(ast)) continue
    seen.add(ast)
    for (const { to } of ast.encoding ?? []) waiting.push(to)
    switch (ast._tag) {
      case "Objects":
        for (const { name, type } of ast.propertySignatures) {
          names.add(name)
          waiting.push(type)
        }
        for (const { type } of ast.indexSignatures) waiting.push(type)
        break
      case "Arrays":
        waiting.push(...ast.elements, ...ast.rest)
        break
      case "Union":
        waiting.push(...ast.types)
        break
      case "Declaration":
        waiting.push(...ast.typeParameters)
        break
      case "Suspend":
        waiting.push(ast.thunk())
    }
  }
  return names
}

/** Lists all field names in a schema and in its encoded form; computed once for each schema. */
export const namesOf = (ast: SchemaAST.AST): ReadonlySet<PropertyKey> => {
  const found = known.get(ast) ?? collect(ast)
  known.set(ast, found)
  return found
}
