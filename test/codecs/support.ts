import { readFileSync } from "node:fs"

/** A file of the Avro project's test data (Apache License 2.0). */
export const vector = (name: string): string => readFileSync(new URL(`./vectors/${name}`, import.meta.url), "utf8")
