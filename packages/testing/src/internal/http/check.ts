/**
 * The faults of the answers of a case.
 */
import { closesOf, type Exchange, type Expected, type FieldRule, finalsOf } from "./Case.ts"
import type { Answer, Received } from "./connection.ts"

const shown = (value: unknown): string => (value === undefined ? "none" : JSON.stringify(value)).slice(0, 300)

const fieldProblem = (name: string, rule: FieldRule, answer: Answer): string | undefined => {
  const lines = answer.fields.flatMap(([each, value]) => each === name ? [value] : [])
  const value = lines.length === 0 ? undefined : lines.join(", ")
  const isRight = rule === false
    ? value === undefined
    : rule === true
    ? value !== undefined
    : typeof rule === "string"
    ? value === rule
    : rule instanceof RegExp
    ? value !== undefined && rule.test(value)
    : JSON.stringify(lines) === JSON.stringify(rule)
  return isRight ? undefined : `${name} is ${shown(value)}, not ${rule instanceof RegExp ? String(rule) : shown(rule)}`
}

const jsonOf = (body: string): unknown => {
  try {
    return JSON.parse(body)
  } catch {
    return undefined
  }
}

const matches = (expected: unknown, value: unknown): boolean =>
  expected instanceof RegExp
    ? typeof value === "string" && expected.test(value)
    : JSON.stringify(expected) === JSON.stringify(value)

const jsonProblems = (members: { readonly [name: string]: unknown }, body: string): ReadonlyArray<string> => {
  const found = jsonOf(body)
  if (typeof found !== "object" || found === null) return [`the body is no JSON object: ${shown(body)}`]
  return Object.entries(members).flatMap(([name, expected]) => {
    const value: unknown = Reflect.get(found, name)
    return matches(expected, value) ? [] : [`${name} is ${shown(value)}, not ${String(expected)}`]
  })
}

/** The rules of every answer, whatever the request (RFC 9110, 6.6.1, 8.6 and 15.3.5). */
const alwaysProblems = (answer: Answer): ReadonlyArray<string> => {
  const names = answer.fields.map(([name]) => name)
  const count = (name: string) => names.filter((each) => each === name).length
  return [
    ...(answer.status < 500 && answer.status !== 400 && answer.status !== 431 && count("date") === 0
      ? ["there is no date"]
      : []),
    ...(answer.status === 204 && (count("content-length") > 0 || count("transfer-encoding") > 0)
      ? ["an answer of 204 has the length of a body"]
      : []),
    ...(count("content-length") > 1 ? ["content-length stands twice"] : []),
    ...(count("content-length") > 0 && count("transfer-encoding") > 0 ? ["both lengths are said"] : [])
  ]
}

const answerProblems = (expected: Expected, answer: Answer, before: ReadonlyArray<Answer>): ReadonlyArray<string> => {
  const statuses = typeof expected.status === "number" ? [expected.status] : expected.status
  const { body } = expected
  const isRight = body === undefined
    ? true
    : typeof body === "string"
    ? answer.body === body
    : body instanceof RegExp
    ? body.test(answer.body)
    : answer.body === before[body.same]?.body
  return [
    ...(statuses.includes(answer.status) ? [] : [`the status is ${answer.status}, not ${statuses.join(" or ")}`]),
    ...Object.entries(expected.fields ?? {}).flatMap(([name, rule]) => fieldProblem(name, rule, answer) ?? []),
    ...(isRight ? [] : [`the body is ${shown(answer.body)}`]),
    ...(expected.json === undefined ? [] : jsonProblems(expected.json, answer.body)),
    ...alwaysProblems(answer)
  ]
}

/** The faults of the answers on a connection; empty if they are as expected. */
export const problemsOf = (
  exchange: Exchange,
  { answers, interim, isClosed, malformed }: Received,
  before: ReadonlyArray<Answer>
): ReadonlyArray<string> => {
  const finals = finalsOf(exchange)
  const wanted = exchange.expect.length - finals.length
  return [
    ...(malformed === undefined ? [] : [`the answer is malformed: ${malformed}`]),
    ...(interim.length === wanted ? [] : [`there are ${interim.length} interim answers, not ${wanted}`]),
    ...(answers.length === finals.length ? [] : [`there are ${answers.length} answers, not ${finals.length}`]),
    ...finals.flatMap((expected, i) => {
      const answer = answers[i]
      return answer === undefined ? [] : answerProblems(expected, answer, [...before, ...answers])
    }),
    ...(closesOf(exchange) && !isClosed ? ["the connection stays open"] : [])
  ]
}
