// The closest point of a mesh, for NVIDIA Warp. This is the body of a function that
// dss/geometry/distance.py declares, not a header of the operators. Given are `mesh` (its id),
// `vertices` in float64, `point` and `within`. The result is the closest point and, fourth, its
// face, -1 where no face is closer than `within`.
//
// It walks the tree that Warp has built over the faces, nearest box first. The boxes are float32
// and only choose what to look at; all distances that count are float64.
using namespace wp;
using Vector = vec_t<3, double>;

constexpr double rounding = 4e-7;  // of the boxes, and of the point that is held against them
const Mesh shape = mesh_get(mesh);
const vec3 rounded(float(point[0]), float(point[1]), float(point[2]));

vec_t<4, double> result(0.0, 0.0, 0.0, -1.0);
double best = within * within;       // squared distance of the closest point so far
double reach = within + rounding;    // boxes farther away than this have nothing to offer

// The nodes still to be visited, with the squared distances of their boxes.
int nodes[BVH_QUERY_STACK_SIZE + 1], count = 0;
float distances[BVH_QUERY_STACK_SIZE + 1];
const auto push = [&](int node, float distance) {
    nodes[count] = node;
    distances[count++] = distance;
};
const auto box_distance = [&](int node) {
    const BVHPackedNodeHalf low = bvh_load_node(shape.bvh.node_lowers, node);
    const BVHPackedNodeHalf high = bvh_load_node(shape.bvh.node_uppers, node);
    return distance_to_aabb_sq(rounded, vec3(low.x, low.y, low.z), vec3(high.x, high.y, high.z));
};

// The closest point of a triangle lies above its inside, or else on an edge.
const auto visit_face = [&](int face) {
    Vector corner[3];
    for (int k = 0; k < 3; ++k)
        corner[k] = vertices.data[shape.indices[3 * face + k]];
    const Vector normal = cross(corner[1] - corner[0], corner[2] - corner[0]);
    const double square = dot(normal, normal), height = dot(point - corner[0], normal);
    if (height * height > best * square)
        return;  // its plane is too far away
    const auto offer = [&](const Vector& q) {
        const double distance = dot(q - point, q - point);
        if (distance < best) {
            best = distance;
            reach = ::sqrt(best) + rounding;
            result = vec_t<4, double>(q[0], q[1], q[2], double(face));
        }
    };
    bool above = square > 0.0;
    for (int k = 0; k < 3 && above; ++k) {
        const Vector edge = corner[(k + 1) % 3] - corner[k];
        above = dot(cross(edge, point - corner[k]), normal) > 0.0;
    }
    if (above) {
        offer(point - normal * (height / square));
        return;
    }
    for (int k = 0; k < 3; ++k) {
        const Vector edge = corner[(k + 1) % 3] - corner[k];
        const double length = dot(edge, edge);
        const double along = length > 0.0 ? dot(edge, point - corner[k]) / length : 0.0;
        offer(corner[k] + edge * clamp(along, 0.0, 1.0));
    }
};

push(*shape.bvh.root, 0.0f);
while (count) {
    if (distances[--count] > reach * reach)
        continue;
    const BVHPackedNodeHalf low = bvh_load_node(shape.bvh.node_lowers, nodes[count]);
    const BVHPackedNodeHalf high = bvh_load_node(shape.bvh.node_uppers, nodes[count]);
    const bool leaf = low.b;
    if (leaf) {  // of the faces low.i to high.i - 1
        for (int item = low.i; item < high.i; ++item)
            visit_face(shape.bvh.primitive_indices[item]);
    } else {  // the children low.i and high.i
        const float left = box_distance(low.i), right = box_distance(high.i);
        const bool left_first = left < right;
        push(left_first ? high.i : low.i, left_first ? right : left);
        push(left_first ? low.i : high.i, left_first ? left : right);
    }
}
return result;
