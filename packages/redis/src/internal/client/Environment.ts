/**
 * Reads options of a Redis client from the environment.
 */
import { Config, Option } from "effect"
import type { Options, Place } from "./Options.ts"

const optional = (name: string) => Config.option(Config.String(name))

const addresses = (name: string): Config.Config<ReadonlyArray<string> | undefined> =>
  Config.map(optional(name), (found) =>
    Option.getOrUndefined(
      Option.map(found, (text) => text.split(",").map((each) => each.trim()).filter((each) => each !== ""))
    ))

const place: Config.Config<Place> = Config.flatMap(
  Config.all({
    cluster: addresses("REDIS_CLUSTER"),
    sentinels: addresses("REDIS_SENTINELS"),
    name: Config.map(optional("REDIS_SENTINEL_NAME"), Option.getOrUndefined)
  }),
  ({ cluster, name, sentinels }): Config.Config<Place> =>
    cluster === undefined && sentinels === undefined
      ? Config.map(Config.Redacted("REDIS_URL"), (url) => ({ url }))
      : Config.succeed({ cluster, sentinels, name })
)

/**
 * Reads options from the environment; `given` overrides them: `REDIS_URL`, or `REDIS_CLUSTER` or `REDIS_SENTINELS` with
 * addresses between commas, and if set `REDIS_SENTINEL_NAME`, `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on` or `off`),
 * `REDIS_CLIENT_ID`. If `given` has an address, the environment's addresses are not read.
 */
export const config = <Given extends Place>(given: Given): Config.Config<Options & Given> =>
  Config.map(
    Config.all({
      place: given.url === undefined && given.cluster === undefined && given.sentinels === undefined
        ? place
        : Config.succeed<Place>({}),
      username: optional("REDIS_USERNAME"),
      password: Config.option(Config.Redacted("REDIS_PASSWORD")),
      tls: Config.option(Config.Literals(["off", "on"], "REDIS_TLS")),
      clientId: optional("REDIS_CLIENT_ID")
    }),
    ({ clientId, password, place, tls, username }) => ({
      ...place,
      username: Option.getOrUndefined(username),
      password: Option.getOrUndefined(password),
      tls: Option.getOrUndefined(tls),
      clientId: Option.getOrUndefined(clientId),
      ...given
    })
  )
