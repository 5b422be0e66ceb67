/**
 * Checks names of tables before they stand in a statement.
 */

/**
 * Returns the name, which may have a schema before it.
 *
 * @throws RangeError, which names the module, where it is no name, or has more than `longest` characters
 */
export const checkTable = (module: string, table: string, longest = 50): string => {
  const [name = "", schema, ...more] = table.split(".").reverse()
  const isName = (part: string, most: number) => part.length <= most && /^[a-z_][a-z0-9_]*$/.test(part)
  if (isName(name, longest) && (schema === undefined || isName(schema, 63)) && more.length === 0) return table
  throw new RangeError(
    `${module}: table must be a name of at most ${longest} small letters, digits and _, got ${JSON.stringify(table)}`
  )
}

/** The name of a table without its schema, as a prefix of the names of indexes and functions. */
export const nameOf = (table: string): string => table.slice(table.lastIndexOf(".") + 1)
