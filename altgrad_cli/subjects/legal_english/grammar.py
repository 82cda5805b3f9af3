"""The law of an imaginary Union that regulates small matters thoroughly: grammar and vocabulary.

The embedded corpus is drawn from this page by ``legislator``, which knows nothing about law. It is
written to be learnt from: words are Zipf-distributed, terms defined in Article 2 are the terms the
act goes on to use, and cross-references point at things that exist.

How to read it. A rule is a name, a colon, and alternatives between `` / `` or behind ``- ``, the
commonest first: the n-th is drawn with weight 1/n (Zipf's law). ``{slot}`` becomes another rule, or what
the act is about (``thing``, ``actor``, ``part`` ...); ``{Slot}`` the same with a capital letter; ``{a:slot}``
puts the indefinite article before it. An indented line continues the one above.

Any resemblance to acts now in force is a compliment to their authors.
"""

from __future__ import annotations

# singular | plural | definition | parts | what can go wrong | who is concerned | what they do with it
SUBJECTS = """
umbrella | umbrellas | any portable canopy carried against the possibility of rain | handle, rib, canopy,
    ferrule | inversion in high wind, abandonment on public transport, involuntary exchange | keeper, lender,
    finder | lending
garden gnome | garden gnomes | any figure of baked clay, resin or concrete, with or without a fishing rod,
    kept out of doors | hat, beard, fishing rod, plinth | loss of paint, unexplained travel, frost |
    gnome-keeper, sculptor, neighbour | display
teapot | teapots | any vessel with a spout in which tea is left to consider itself | spout, lid, handle, cosy
    | dripping, chipping of the spout, loss of the lid | pourer, host, guest | warming
marmalade | marmalades | any preserve of citrus fruit containing peel, doubt excluded | peel, jar, label,
    sugar | excessive runniness, crystallisation, adherence to official documents | preserver, taster, grocer
    | spreading
library book | library books | any book that is the property of a library, whatever its present address |
    spine, cover, slip, margin | overdue return, annotation in ink, use as a doorstop | librarian, borrower,
    reader | renewal
echo | echoes | any sound returned by a valley, cellar or committee substantially unaltered | onset, delay,
    tail, syllable | premature return, addition of words not originally spoken, silence | shouter, listener,
    valley manager | certification
sourdough starter | sourdough starters | any culture of flour and water that has been given a name | crust,
    bubble, jar, rubber band | neglect, overflow at night, loss of its papers | feeder, baker, heir | feeding
lost glove | lost gloves | any glove the whereabouts of whose counterpart are unknown | thumb, cuff, lining,
    button | separation, pairing in error, exposure on a railing | owner, finder, custodian | reunification
alarm clock | alarm clocks | any device designed to end sleep against the wishes of the sleeper | bell, hand,
    spring, snooze button | ringing on a public holiday, silence on a working day, repeated snoozing |
    sleeper, waker, clockmaker | setting
snowman | snowmen | any upright body of compacted snow with at least two eyes and an opinion | carrot, scarf,
    torso, button | premature melting, theft of the carrot, subsidence | builder, landowner, dog-walker |
    erection
weathercock | weathercocks | any bird of metal that takes the side of the wind | tail, spindle, comb, bearing
    | rusting, permanent conviction, confusion of east with west | steeplejack, parish, navigator |
    orientation
biscuit | biscuits | any baked article intended for immersion in a hot drink | crumb, edge, filling, wrapper |
    structural failure during immersion, softening, disappearance from a shared tin | baker, dunker, colleague
    | immersion
kite | kites | any craft heavier than air and lighter than the person holding it | tail, string, spar, reel |
    arrest by a tree, sudden calm, departure | flyer, forester, aviation authority | flight
puddle | puddles | any body of surface water deeper than it looks | rim, surface, reflection, bed | splashing,
    freezing, merger with a lake | pedestrian, motorist, wader | crossing
shadow | shadows | any absence of light that is attributable to a person | outline, edge, length, head |
    detachment, overlap, lengthening towards the evening | caster, lamplighter, sundial operator | casting
cuckoo clock | cuckoo clocks | any timepiece that announces the hour by means of a bird | pendulum, weight,
    door, cuckoo | hesitation of the cuckoo, insistence of the cuckoo, slamming of the door | winder,
    clockmaker, lodger | winding
rumour | rumours | any statement whose author is always somebody else | source, detail, moral, denial |
    embellishment, confirmation, unexpected accuracy | whisperer, hearer, official spokesperson | circulation
sandcastle | sandcastles | any fortification held below the high-water mark | moat, tower, flag, rampart |
    arrival of the tide, siege by a younger sibling, undermining | architect, besieger, harbour master |
    defence
paper aeroplane | paper aeroplanes | any aircraft made from a single sheet, of whatever prior legal value |
    wing, nose, fold, tail | landing in a meeting, stalling, recognition of the handwriting | pilot, folder,
    addressee | launching
queue | queues | any line of persons united by a destination and divided by its speed | head, tail, gap, rope
    | insertion, evaporation, discovery that it was the wrong one | newcomer, attendant, place-holder |
    formation
birthday cake | birthday cakes | any cake whose candles disclose personal data | candle, icing, layer, plate |
    collapse, incorrect spelling of a name, excess of candles | baker, celebrant, singer | cutting
nap | naps | any sleep of less than one hour that will be denied | onset, blanket, duration, armchair |
    extension until the evening, observation by a superior, snoring | napper, witness, employer | taking
ghost | ghosts | any former tenant who has not given notice | sheet, chain, sigh, threshold | double booking,
    fading, disputes as to seniority | landlord, tenant, medium | accommodation
"""

GRAMMAR = """
kind: Regulation / Directive / Decision
body: Commission / European Parliament and of the Council / Council
city: Brussels / Strasbourg / Luxembourg / Upper Drizzling / Little Quorum / Bad Formular / Saint-Paraphe /
    Protokollstadt
signatory: A. QUILL / M. INKWELL / B. PARAGRAPH / J. VAN DER STEMPEL / C. SEMICOLON / O. ANNEX / E. DE LA
    VIRGULE / P. FOOTNOTE / S. CORRIGENDUM / T. QUORUMSDOTTIR
title:
  - on the {activity} of {things}
  - laying down rules for the {activity} of {things} in {place}
  - on the protection of {actors} from {mishap} in connection with {things}
  - establishing {a:adjective} framework for {things} and amending {earlier_act}
  - supplementing {earlier_act} as regards the {part} of {things}
citation:
  - Having regard to the Treaty on the Functioning of the Union, and in particular Article {treaty_article}
    thereof,
  - Having regard to the proposal from the Commission,
  - Having regard to {earlier_act}, and in particular Article {treaty_article}({small}) thereof{footnote},
  - Having regard to the opinion of the Committee of {committee_of},
  - After consulting the European {office},
  - Acting in accordance with the {adjective} legislative procedure,
committee_of: Aunts / the Regions / Small Matters / Persons Who Have Read the Annex / Night-Time Affairs /
    Weights and Feelings
recital:
  - {Things} make {a:adjective} contribution to {aim}. {Consequence}.
  - {Experience} has shown that {mishap} involving {things} can give rise to {adjective} {harm}, in particular
    where {circumstance}.
  - In order to ensure {aim}, {actors} should {duty}.
  - {Earlier_act} {earlier_effect}{footnote}. {Consequence}.
  - Since the objective of this {kind_here}, namely {aim}, cannot be sufficiently achieved by the Member
    States but can rather, by reason of its {noun_quality}, be better achieved at Union level, the Union may
    adopt measures in accordance with the principle of subsidiarity.
  - It is {fitting} to provide that {statement}. {Consequence}.
  - The {activity} of {things} should not {verb_harm} {aim}, nor should it be used as a means of {evasion}.
  - According to the {adjective} study carried out by the European {office}, {percent} % of {actors} had,
    within the preceding {months} months, experienced {mishap}. That figure does not include {exclusion}.
  - Certain {things} which {circumstance_plural} present {a:adjective} risk and should therefore be subject to
    {procedure}.
  - In the interests of {noun_quality}, the {part} of {a:thing} should be {participle} separately from its
    {part}.
  - This {kind_here} respects the fundamental rights of {actors}, including the right to {right}.
  - The European {office} delivered its opinion on {earlier_date}, and regretted doing so{footnote}.
experience: Experience / Practice / The application of {earlier_act} / A public consultation / Correspondence
    received by the Commission / An exchange of views between Member States
consequence: It is therefore appropriate to lay down {adjective} rules on {matter} / Member States should
    accordingly {authority_duty} / Those rules should apply without prejudice to {earlier_act} / {Actors}
    should consequently {duty} / That situation calls for {procedure} at Union level / No further explanation
    is considered necessary
earlier_effect: lays down {adjective} rules on {matter} / did not foresee {mishap} / should be amended
    accordingly / provides for {procedure} / has proved {adjective} in practice / was adopted on a Friday
exclusion: persons who declined to answer / persons asleep at the time of the survey / {actors} who were not
    at home / the Commission itself
evasion: circumventing {earlier_act} / avoiding {procedure} / passing the time / obtaining {document} to which
    there is no entitlement
paragraph:
  - {Actors} shall {duty}.
  - The {authority} shall {authority_duty} within {months} months of {event}.
  - Where {circumstance}, the {actor} shall, without undue delay, {duty}.
  - {Statement}.
  - Member States shall ensure that {statement}.
  - By way of derogation from {reference}, {actors} may {permission}, provided that {condition}.
  - The {paper} referred to in {reference} shall contain at least {contents}.
  - The Commission shall, by means of implementing acts, {authority_duty}. Those implementing acts shall be
    adopted in accordance with the procedure referred to in {committee_article}.
  - For the purposes of {reference}, account shall be taken of any {defined_term}.
  - For the purposes of {reference}, {a:thing} shall be deemed to be {adjective} where {circumstance}.
  - {Reference} shall apply mutatis mutandis to {things} that {circumstance_plural}.
  - No {actor} shall {offence}, unless {condition}.
  - The {authority} may {permission_authority} where {circumstance}. It shall inform the {actor} concerned of
    the reasons {adverb} and in {writing}.
  - Any {actor} who considers that {reference} has not been complied with may lodge a complaint with the
    {authority}, which shall acknowledge receipt within {days} days and {authority_duty}.
statement:
  - {things} are {participle} in such a way as to prevent {mishap}
  - the {part} of {a:thing} bears the {mark} in {a:adjective} and {adjective} manner
  - no {thing} is made available on the market unless {condition}
  - {actors} have access to {procedure}
  - the {activity} of {things} is carried out only by {actors} who hold {document}
  - {a:thing} that {circumstance_singular} is regarded as {adjective}
condition: the conditions set out in {reference} are met / the {authority} has issued {document} in accordance
    with {annex_reference} / the {actor} concerned has been informed {adverb} / the {part} has been
    {participle} in the presence of {a:actor} / {mishap} is not reasonably foreseeable / it is raining
circumstance: {a:thing} presents a risk of {mishap} / the {actor} fails to {duty} / the {paper} has expired /
    the {part} cannot be {participle} / the conditions set out in {reference} are no longer met / the
    {authority} has {adjective} grounds to suspect {mishap} / two or more {actors} claim the same {thing} /
    the {actor} insists
circumstance_plural: are {participle} in a Member State other than that of the {actor} / lack {a:part} / were
    {participle} before {earlier_date} / belong to no {actor} in particular / are known by name
circumstance_singular: lacks {a:part} / has been {participle} more than {small} times / is unattended / was
    {participle} before {earlier_date} / resembles {a:other_thing}
event: receipt of the {paper} / the occurrence of {mishap} / the date referred to in {final_article} / the
    notification referred to in {reference} / discovery of the {part}
duty:
  - {verb} the {part} of {things} in accordance with {reference}
  - keep {document} at the disposal of the {authority} for {years} years
  - inform the {authority} of any {mishap}
  - take all {adjective} measures to prevent {mishap}
  - {verb} {things} that {circumstance_plural}
  - draw up {document} in the form set out in {annex_reference}
  - affix the {mark} to the {part}
  - refrain from {evasion}
  - comply with {reference}
  - apologise
authority_duty: {verb} {document} {adverb} / publish {document} in the {journal} / {verb} the measures taken
    pursuant to {reference} / carry out {procedure} / lay down {adjective} rules on {matter} / notify the
    Commission thereof / establish {a:record} / do nothing, and give reasons
permission: {verb} {things} without {document} / {duty} at a later date / {verb} not more than {small}
    {things} per calendar year / rely on {document} issued in another Member State / rest
permission_authority: {verb} the {thing} concerned / suspend {document} / order {procedure} / require the
    {actor} to {duty} / extend that period by {months} months / withdraw its remarks
offence: {verb_harm} {a:thing} / remove the {mark} / {verb} the {part} of {a:thing} belonging to another
    {actor} / make available {things} that {circumstance_plural} / claim to have read {annex_reference}
contents: the name and address of the {actor}, {a:thing_description} and the {mark} / {a:thing_description} /
    a drawing of the {part} to a scale of 1:{small} / the date of any {mishap} and the names of those who
    laughed / a statement that the {actor} has {participle} the {part}
thing_description: description of the {thing} and of its {part} / photograph of the {thing}, taken {adverb} /
    estimate of the likelihood of {mishap} / certified copy of {document}
matter: the {activity} of {things} / the {part} of {things} / {procedure} / the prevention of {mishap} / {aim}
    / the issue of {document}
aim: a high level of {noun_quality} / the smooth functioning of the internal market / the free movement of
    {things} / {noun_quality} and {noun_quality} / legal certainty for {actors} / the peaceful enjoyment of
    {things} / the dignity of {actors}
fitting: appropriate / necessary / advisable / desirable / only natural / overdue
harm: harm / costs / distortion of competition / uncertainty / distress / inconvenience / correspondence /
    embarrassment / laughter
right: privacy / property / good administration / an effective remedy / silence / a second opinion / be left
    alone with {a:thing} / tea
procedure: {a:adjective} assessment / {a:adjective} inspection / a conformity assessment procedure / the
    procedure laid down in {reference} / mutual recognition / prior authorisation / a period of quiet
    reflection / mediation by {a:actor}
document: {a:paper} / {a:adjective} {paper} / the {paper} referred to in {annex_reference}
paper: certificate / technical file / declaration of conformity / annual report / notice / permit / set of
    instructions / letter of regret / invoice / sworn statement / sketch
record: Union register of {things} / {adjective} database / contact point for {actors} / list of {things} that
    {circumstance_plural} / help desk staffed by {actors}
journal: Official Journal of the Union / Official Journal / bulletin of the European {office} / window of the
    town hall
authority: competent authority / competent authority of the Member State concerned / Commission / European
    {office} / market surveillance authority / notified body
mark: conformity marking / serial number / name of the {actor} / Union emblem / date of {activity} / warning
    ‘{Thing}: handle with respect’
place: the internal market / the Member States / public places / cross-border situations / the outermost
    regions / stairwells
writing: writing / a language which can be easily understood / a durable medium / verse
verb: notify / verify / keep / record / assess / examine / maintain / approve / store / inspect / replace /
    review / register / monitor / repair / measure / recall / adjust / label / withdraw / count / certify /
    clean / secure / preserve / return / seal / insure / rehearse / polish / admire
participle: kept / used / placed / stored / tested / marked / designed / handled / inspected / installed /
    repaired / measured / transported / certified / registered / sealed / folded / insured / counted /
    forgotten / polished / rehearsed
verb_harm: impair / undermine / hinder / damage / delay / conceal / prejudice / compromise / provoke /
    misplace / tickle / contradict
adjective: appropriate / necessary / adequate / specific / common / proportionate / relevant / effective /
    reasonable / harmonised / detailed / clear / independent / uniform / significant / simplified /
    transparent / technical / consistent / sufficient / legible / permanent / temporary / objective /
    exceptional / equivalent / verifiable / durable / dignified / seasonal / indelible / lukewarm /
    inexplicable
adverb: immediately / without delay / annually / in good time / separately / in full / on request / by
    electronic means / where possible / at least once / quietly / politely / before breakfast
noun_quality: safety / transparency / protection / consistency / proportionality / effectiveness / legibility
    / mutual trust / scale and effects / traceability / interoperability / sustainability / punctuality /
    hygiene / good humour / dignity / quiet
office: Data Protection Supervisor / Agency for Small Matters / Economic and Social Committee / Standards
    Office / Ombudsman / Office for Lost Property / Observatory of Coincidences / Bureau of Unfinished
    Business
term:
  - {activity} | any act by which {a:actor} {does} {a:thing}, whether or not {circumstance}
  - serious {mishap} | any such event which, directly or indirectly, leads or is likely to lead to {adjective}
    {harm}
  - making available | any supply of {a:thing} for {activity} on the Union market in the course of a
    commercial activity
  - competent authority | an authority designated by a Member State in accordance with {reference}
  - risk | the combination of the probability of {mishap} and the degree of severity of the {harm}
  - conformity marking | a marking by which the {actor} indicates that the {part} has been {participle}
  - {adjective} {part} | {a:part} which has been {participle} not more than {small} times
  - approved {actor} | any person whose name appears in the register and who does not mind
does: keeps / offers / receives / uses / transfers / lends / displays / mends / mislays
heading: Obligations of {actors} / Placing on the market / Technical documentation / Inspections / Marking of
    the {part} / Information to be provided to {actors} / Notification of {mishap} / Registers / Right to
    lodge a complaint / Cooperation between Member States / Derogations / Storage and transport / Measures in
    the event of {mishap} / Training of {actors} / Mutual assistance / Exercise of the delegation /
    Confidentiality / Fees / Reporting / Requirements for the {part} / Exemption of {other_things} / Public
    holidays / Questions of etiquette
scope: This {kind_here} lays down {adjective} rules on {matter} and on {matter}. / This {kind_here}
    establishes {procedure} for {matter}. / The purpose of this {kind_here} is to ensure {aim}, while
    providing for {matter}.
exemption: This {kind_here} shall not apply to {things} that {circumstance_plural}. / This {kind_here} shall
    apply without prejudice to {earlier_act}. / This {kind_here} shall not apply to {other_things}, which are
    governed by {earlier_act}.
penalties: Member States shall lay down the rules on penalties applicable to infringements of this {kind_here}
    and shall take all measures necessary to ensure that they are implemented. The penalties provided for
    shall be effective, proportionate and dissuasive. / Where the infringement concerns the {part}, the amount
    shall not exceed EUR {amount}. / A first infringement of {reference} shall be met with {a:adjective} look.
committee: The Commission shall be assisted by the Committee on {Things}. That committee shall be a committee
    within the meaning of Regulation (EU) No 182/2011. / Where reference is made to this paragraph, Article 5
    of Regulation (EU) No 182/2011 shall apply. / Where the committee delivers no opinion, there shall be tea.
small: 2 / 3 / 4 / 5 / 6 / 7 / 8 / 9 / 10 / 12
entry_into_force: This {kind_here} shall enter into force on the {entry_day} day following that of its
    publication in the Official Journal of the Union.
entry_day: twentieth / third / first / thirtieth / longest
days: 30 / 15 / 10 / 60 / 20 / 7
months: 6 / 3 / 12 / 18 / 24 / 2 / 36
years: 5 / 3 / 10 / 2 / 7
percent: 5 / 10 / 25 / 50 / 2 / 37 / 81
amount: 10 000 / 500 / 2 000 / 100 000 / 40 / 7
treaty_article: 114 / 192 / 43 / 207 / 91 / 168 / 352
month: March / June / December / July / October / April / May / November / September / February / January /
    August
review: By {date}, and every {years} years thereafter, the Commission shall submit to the European Parliament
    and to the Council a report on the application of this {kind_here}. / The report shall assess {matter},
    and shall be accompanied, where appropriate, by a legislative proposal. / In preparing that report the
    Commission shall ask {actors} and shall listen to the answer.
annex_title: Form of the {paper} / Requirements for the {part} / List of {things} that {circumstance_plural} /
    Correlation table / Essential requirements for {things} / Method for measuring the {part}
annex_line: The {part} shall be {participle} {adverb} and shall not be {participle} thereafter. / {Thing},
    {adjective}: {amount} units. / Name of the {actor}: ... / Tolerance for the {part}: {small} mm, or
    {percent} % in the case of {mishap}. / The {part} shall withstand {mishap} for not less than {months}
    months. / Test {small}: {a:actor} shall {verb} the {part} {small} times and record the result. / See
    {reference}.
"""
