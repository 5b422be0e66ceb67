import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

setFlagsFromString("--expose-gc")

/** A full garbage collection: references by WeakRef are gone after it where nothing else holds their objects. */
export const collectGarbage: () => void = runInNewContext("gc")
